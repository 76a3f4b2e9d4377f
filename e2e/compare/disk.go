package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// syncs are enough for a ninety-ninth percentile to mean something.
const syncs = 300

// syncTimes says how long the disk takes to make a kilobyte durable. Mayfly waits
// for that before it signs, once for all requests that wait together, and Fulcio
// never does: on a slow disk, latencies at low load are the disk's.
func syncTimes(dir string) (string, error) {
	f, err := os.Create(filepath.Join(dir, "syncs"))
	if err != nil {
		return "", fmt.Errorf("measuring the disk: %w", err)
	}
	defer f.Close() //nolint:errcheck // nobody will read it
	block, took := make([]byte, 1<<10), make([]time.Duration, syncs)
	for i := range took {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return "", fmt.Errorf("measuring the disk: %w", err)
		}
		if err := f.Sync(); err != nil {
			return "", fmt.Errorf("measuring the disk: %w", err)
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return fmt.Sprintf("fsync of 1 KiB: median %.2f ms, p99 %.2f ms",
		took[syncs/2].Seconds()*1e3, took[syncs*99/100].Seconds()*1e3), nil
}
