// Package memory spares a service most of its garbage collections, for a bounded
// amount of memory.
//
// What lives in the heap of a service is some ten megabytes, and Go collects when as
// much garbage has gathered: under load every few tens of milliseconds, which takes
// an eighth of the CPU and of the time that clients wait. With [Relax], 64 MiB of
// garbage gather first.
//
// Invariants: what an operator has said with GOGC or GOMEMLIMIT counts, and nothing
// else; where a control group has little memory, nothing is changed; who has 64 MiB
// living or more pays nothing, for then Go waits for that much by itself; what lives
// may grow in a moment, and is collected as if by Go alone from 192 MiB on.
//
// It does not limit what lives, and so what the process needs at least: that is
// bounded by the limits of the configuration.
package memory

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
)

const (
	// garbage is what gathers before a collection.
	garbage = 64 << 20
	// maxPercent bounds what is believed of a heap in which next to nothing lives yet.
	maxPercent = 800
	// leastLimit is the memory that a control group must have for that.
	leastLimit = 256 << 20
	// most is what the process may take before it collects whatever GOGC says. With
	// less than 64 MiB living it stays below by itself.
	most = 192 << 20
)

// Relax has the collector wait for more garbage until release is called. It changes
// nothing for who has set GOGC or GOMEMLIMIT, or has little memory.
//
// A fixed GOGC would be simpler, and worse: it lets the garbage grow with what lives,
// ninefold for 800, so that a busy hour could take gigabytes. A memory limit without
// GOGC ends in collecting all the time when what lives comes near to it; here it is
// lifted before that. A block that
// counts as living and is never used becomes resident after all, for Go may clear it.
func Relax() (release func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" || limit(os.DirFS("/")) < leastLimit {
		return func() {}
	}
	p := &pacer{unlimited: debug.SetMemoryLimit(most), usual: debug.SetGCPercent(maxPercent), percent: maxPercent}
	p.adjust()
	return p.release
}

// pacer sets GOGC by what lives, soon after each collection. Until then GOGC is that
// of before, and ninefold of what lives now may be anything: the memory limit bounds
// it, and is there only while GOGC is more than usual.
type pacer struct {
	mu        sync.Mutex // guards all below
	released  bool
	unlimited int64 // the memory limit before
	usual     int   // GOGC before
	percent   int   // GOGC now
}

func (p *pacer) adjust() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released {
		return
	}
	// Setting it stops the world, so small differences are left, but not the last one.
	want := percentFor(living(), p.usual)
	if want > p.percent*9/8 || want < p.percent*7/8 || want == p.usual && want != p.percent {
		p.set(want)
	}
	// Nobody keeps it, so the next collection finds it.
	runtime.AddCleanup(&collected{}, (*pacer).adjust, p)
}

func (p *pacer) set(percent int) {
	debug.SetGCPercent(percent)
	p.percent = percent
	if percent == p.usual {
		debug.SetMemoryLimit(p.unlimited)
	} else {
		debug.SetMemoryLimit(most)
	}
}

// collected has a pointer, for Go keeps small objects without one together, and
// alive with each other.
type collected struct{ _ *collected }

func (p *pacer) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.released = true
	p.set(p.usual)
}

// percentFor is the GOGC with which garbage gathers beside what lives, but not less
// than usual.
func percentFor(living uint64, usual int) int {
	return max(usual, int(min(maxPercent, garbage*100/max(living, 1))))
}

// living is what GOGC is a share of: the heap that the last collection let live, and
// what it had to scan besides.
func living() uint64 {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
	}
	metrics.Read(samples)
	var all uint64
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 { // else Go has it no more
			all += s.Value.Uint64()
		}
	}
	return all
}

// limit is the memory that the control groups of this process leave it at most:
// those above it bind it too. What cannot be read is no limit, as on a machine
// without them.
func limit(root fs.FS) uint64 {
	least := uint64(math.MaxUint64)
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(groups)) {
		// cgroups(7): "hierarchy-ID:controller-list:cgroup-path"; version 2 has the
		// number 0 and no controllers.
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		// Who is above memory.high is slowed down until it is below.
		mount, names := "sys/fs/cgroup", []string{"memory.max", "memory.high"}
		if parts[1] == "memory" {
			mount, names = "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}
		} else if parts[0] != "0" {
			continue
		}
		// In a container, the path may be that of the host, where only the mount itself
		// is to be seen.
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			for _, name := range names {
				text, err := fs.ReadFile(root, path.Join(mount, group, name))
				if bytes, parseErr := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && parseErr == nil {
					least = min(least, bytes) // "max" is none
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return least
}
