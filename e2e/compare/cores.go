package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// splitCores keeps this process, and what it starts, off the first core that it may
// use, and returns that core's number: the measured server has it to itself, as a
// server has whose clients are elsewhere. Without a second core it does nothing and
// returns "".
func splitCores() (string, error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return "", fmt.Errorf("finding the cores: %w", err)
	}
	if all.Count() < 2 {
		return "", nil
	}
	first := 0
	for !all.IsSet(first) {
		first++
	}
	all.Clear(first)
	// Threads that are made later take after those that make them. The second
	// round is for those that were made during the first.
	for range 2 {
		if err := confine(&all); err != nil {
			return "", err
		}
	}
	runtime.GOMAXPROCS(all.Count())
	return strconv.Itoa(first), nil
}

// confine puts every thread of this process onto some cores.
func confine(cores *unix.CPUSet) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("finding the threads: %w", err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			return fmt.Errorf("finding the threads: %w", err)
		}
		if err := unix.SchedSetaffinity(id, cores); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("choosing cores: %w", err)
		}
	}
	return nil
}
