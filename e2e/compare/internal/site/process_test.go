package site

import (
	"os"
	"testing"
	"time"
)

func TestParseStatCountsUserAndSystem(t *testing.T) {
	// The name may hold blanks and parentheses.
	const stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 75 900 900 20 0 8 0 100 1 1 1 1\n"
	got, err := parseStat([]byte(stat))
	if want := 2250 * time.Millisecond; err != nil || got != want {
		t.Errorf("CPU time of %q is %v (%v), want %v", stat, got, err, want)
	}
	for _, bad := range []string{"", "42 (a", "42 (a) S 1 2 3", "42 (a) S 1 2 3 4 5 6 7 8 9 10 x y 1 1"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("CPU time of %q is %v, want an error", bad, got)
		}
	}
}

func TestParseStatusReadsKibibytes(t *testing.T) {
	got, err := parseStatus([]byte("Name:\tmayfly\nVmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"))
	if want := (Memory{Resident: 1 << 20, Peak: 2 << 20}); err != nil || got != want {
		t.Errorf("memory is %+v (%v), want %+v", got, err, want)
	}
	for _, bad := range []string{"", "VmRSS:", "VmRSS:\tmuch kB\nVmHWM: 1 kB"} {
		if got, err := parseStatus([]byte(bad)); err == nil {
			t.Errorf("memory of %q is %+v, want an error", bad, got)
		}
	}
}

// TestOwnProcessHasFigures reads the real /proc, whose format no test can fix.
func TestOwnProcessHasFigures(t *testing.T) {
	if _, err := CPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	if m, err := MemoryOf(os.Getpid()); err != nil || m.Resident < 1<<20 || m.Peak < m.Resident {
		t.Errorf("memory of this test is %+v (%v), want more than a mebibyte, and no more than its peak", m, err)
	}
	if n, err := Files(os.Getpid()); err != nil || n < 3 {
		t.Errorf("this test has %d files open (%v), want its three streams at least", n, err)
	}
}
