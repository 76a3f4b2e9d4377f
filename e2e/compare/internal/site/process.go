package site

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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a child process that is left running.
type Process struct {
	name string
	cmd  *exec.Cmd
	out  *output
	done chan struct{} // closed when the process has ended
	err  error         // valid once done is closed
}

// Start starts a program in a clean environment. It dies with this process.
func Start(dir, name string, args ...string) (*Process, error) {
	p := &Process{name: filepath.Base(name), out: new(output), done: make(chan struct{})}
	p.cmd = exec.Command(name, args...) //nolint:gosec,noctx // programs that the caller names; Stop ends them
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, p.out, p.out
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

const stopTime = 10 * time.Second

// Stop asks the process to end, and kills it when it does not within a bound.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

const startTime = 30 * time.Second

// Await polls until the condition holds, and gives up when the process ends or
// after a bound.
func (p *Process) Await(ctx context.Context, holds func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		last := holds()
		if last == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended: %w\n%s", p.name, errors.Join(p.err, last), p.out)
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w\n%s", p.name, last, p.out)
		}
	}
}

// Words are the last that the process wrote.
func (p *Process) Words() string { return p.out.String() }

// output keeps the last part of what a process writes.
type output struct {
	mu   sync.Mutex
	tail []byte // mu guards it
}

const maxTail = 8 << 10

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = append(o.tail, b...)
	if extra := len(o.tail) - maxTail; extra > 0 {
		o.tail = append(o.tail[:0], o.tail[extra:]...)
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.tail)
}

// clockTicks a second is what the kernel tells programs that it counts in, on
// all architectures that Go has.
const clockTicks = 100

// CPU is the time that the process has used, in user and kernel, to ten
// milliseconds.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading CPU time: %w", err)
	}
	return parseStat(text)
}

// parseStat reads utime and stime, which are fields 14 and 15 of proc(5)'s stat.
// The second field is a name in parentheses that may hold anything.
func parseStat(text []byte) (time.Duration, error) {
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("no CPU time in %q", text)
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// Memory is what a process occupies, in bytes.
type Memory struct{ Resident, Peak int64 }

// MemoryOf reads VmRSS and VmHWM.
func MemoryOf(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("reading memory: %w", err)
	}
	return parseStatus(text)
}

func parseStatus(text []byte) (Memory, error) {
	var m Memory
	for _, field := range []struct {
		name string
		to   *int64
	}{{"VmRSS:", &m.Resident}, {"VmHWM:", &m.Peak}} {
		_, rest, found := strings.Cut(string(text), field.name)
		words := strings.Fields(rest)
		if !found || len(words) == 0 {
			return Memory{}, fmt.Errorf("no %s in /proc", field.name)
		}
		kib, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("reading %s: %w", field.name, err)
		}
		*field.to = kib << 10
	}
	return m, nil
}

// Files is how many files the process has open.
func Files(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("counting open files: %w", err)
	}
	return len(entries), nil
}

// freeAddress is a loopback address on which nothing listens, below the range
// that the kernel takes the ports of outgoing connections from. It is given out
// once: whoever asked for it may not listen yet.
func (s *Site) freeAddress() (string, error) {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000)) //nolint:gosec // no secret
		if s.given[address] {
			continue
		}
		ln, err := net.Listen("tcp", address) //nolint:noctx // on loopback, at once
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			return "", fmt.Errorf("closing a listener: %w", err)
		}
		s.given[address] = true
		return address, nil
	}
	return "", errors.New("found no free port in a hundred attempts")
}
