package load

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// coarse is by how much the runtime's timers may be late on an idle machine: it
// waits for them in epoll_wait, which counts in milliseconds. As latencies are
// counted from the intended start, that would be in every figure.
const coarse = 2 * time.Millisecond

// preciseSleep leaves the end of the wait to the kernel's timers, which are good
// to some fifty microseconds. It blocks a thread for that long. Linux only.
func preciseSleep(ctx context.Context, d time.Duration) {
	until := time.Now().Add(d)
	if d > coarse && !pause(ctx, d-coarse) {
		return
	}
	for {
		left := time.Until(until)
		if left <= 0 {
			return
		}
		ts := syscall.NsecToTimespec(left.Nanoseconds())
		if err := syscall.Nanosleep(&ts, nil); err != nil && !errors.Is(err, syscall.EINTR) {
			pause(ctx, left)
			return
		}
	}
}
