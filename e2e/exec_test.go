package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program returns the path of a program that run.sh has built.
func program(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set; start the tests with e2e/run.sh", variable)
	}
	return path
}

// command runs a program to its end in a clean environment.
type command struct {
	dir string
	env []string
}

// commandTimeout bounds one client command; the slowest takes two seconds.
const commandTimeout = time.Minute

func (c command) run(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.WaitDelay = c.dir, time.Second
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir}, c.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}

// must runs a program that has to succeed.
func (c command) must(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := c.run(t, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mustFail runs a program that has to fail, and say one of the words given.
func (c command) mustFail(t testing.TB, words []string, name string, args ...string) {
	t.Helper()
	out, err := c.run(t, name, args...)
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	refuses(t, fmt.Sprintf("%s %s: %s", filepath.Base(name), strings.Join(args, " "), out), words, err)
}

// refuses demands that a client gave an error for what is named, and in it one
// of the words.
func refuses(t testing.TB, what string, words []string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("accepted %s; want it refused with one of %q", what, words)
		return
	}
	for _, w := range words {
		if strings.Contains(err.Error(), w) {
			return
		}
	}
	t.Errorf("refused %s, but with none of %q: %v", what, words, err)
}

// daemon is a child process that is left running.
type daemon struct {
	name string
	cmd  *exec.Cmd
	out  *output
	done chan struct{} // closed when the process has ended
	err  error         // valid once done is closed
}

// startDaemon starts a process that is killed at the end of the test at the
// latest. What it wrote is shown when the test fails.
func startDaemon(t testing.TB, dir, name string, args ...string) *daemon {
	t.Helper()
	d := &daemon{name: filepath.Base(name), cmd: exec.Command(name, args...), out: new(output), done: make(chan struct{})}
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = dir, d.out, d.out
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	// A test binary that dies leaves nothing running.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", d.name, err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Logf("last words of %s (process %d):\n%s", d.name, d.cmd.Process.Pid, d.out)
		}
	})
	return d
}

// kill ends the process as a power failure would, and waits.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// terminate asks the process to end and returns how it did, within the bound.
func (d *daemon) terminate(t testing.TB, bound time.Duration) error {
	t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stopping %s: %v", d.name, err)
	}
	select {
	case <-d.done:
		return d.err
	case <-time.After(bound):
		t.Fatalf("%s did not end within %v of SIGTERM", d.name, bound)
		return nil
	}
}

// await polls until the condition holds, and gives up when the process ends or
// the time is over.
func (d *daemon) await(t testing.TB, what string, bound time.Duration, holds func() error) {
	t.Helper()
	var last error
	deadline, tick := time.NewTimer(bound), time.NewTicker(20*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for {
		if last = holds(); last == nil {
			return
		}
		select {
		case <-tick.C:
		case <-d.done:
			t.Fatalf("%s ended while the test waited for %s: %v\n%s", d.name, what, d.err, d.out)
		case <-deadline.C:
			t.Fatalf("%s: no %s within %v: %v\n%s", d.name, what, bound, last, d.out)
		}
	}
}

// output keeps the last part of what a process writes.
type output struct {
	mu   sync.Mutex
	tail []byte // mu guards it
}

const maxTail = 16 << 10

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = append(o.tail, p...)
	if extra := len(o.tail) - maxTail; extra > 0 {
		o.tail = append(o.tail[:0], o.tail[extra:]...)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.tail)
}

// freePort returns a loopback port on which nothing listens. The service's URL
// is in its configuration and in its log, so the port is chosen beforehand and
// stays through restarts. It is below the range that the kernel takes the ports
// of outgoing connections from (32768 and up, by default), one of which could
// otherwise sit on it while the service is down.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Fatal("found no free port in a hundred attempts")
	return 0
}

func writeFile(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
