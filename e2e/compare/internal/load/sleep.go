package load

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm waits with a timer of the kernel's (timerfd_create(2)), which is good to
// some fifty microseconds and costs no CPU. The runtime's own timers may be a
// millisecond late on an idle machine, because it waits for them in epoll_wait;
// as latencies count from the intended start, that would be in every figure.
type alarm struct {
	file    *os.File
	raw     func(func(fd uintptr)) error
	release func() bool
}

// newAlarm is an alarm whose waits end early when the context does.
func newAlarm(ctx context.Context) (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a timer: %w", err)
	}
	file := os.NewFile(uintptr(fd), "timer")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("making a timer: %w", err)
	}
	return &alarm{
		file: file, raw: conn.Control,
		release: context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) }),
	}, nil
}

// sleep waits. If the kernel should refuse, the runtime's timer does.
func (a *alarm) sleep(ctx context.Context, d time.Duration) {
	var setErr error
	err := a.raw(func(fd uintptr) {
		setErr = unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}, nil)
	})
	if err != nil || setErr != nil {
		pause(ctx, d)
		return
	}
	var expirations [8]byte
	_, _ = a.file.Read(expirations[:])
}

func (a *alarm) close() {
	a.release()
	_ = a.file.Close()
}
