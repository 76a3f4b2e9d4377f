package memory

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"testing/fstest"
	"time"
)

// sink keeps the compiler from seeing that garbage is garbage.
var sink []byte

// collections is how often the collector ran while 512 MiB of garbage were made.
func collections() uint32 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 512 << 20 / (64 << 10) {
		sink = make([]byte, 64<<10)
	}
	sink = nil
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

func TestRelaxSparesCollections(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	if have := limit(os.DirFS("/")); have < leastLimit {
		t.Fatalf("the test runs with %d bytes of memory, and needs %d", have, leastLimit)
	}
	usual := collections()
	release := Relax()
	relaxed := collections()
	release()
	if relaxed > usual/4 {
		t.Errorf("%d collections, and %d without Relax; want a quarter at most", relaxed, usual)
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("GOGC is %d after the release, want 100, as it was", got)
	}
}

// TestRelaxDoesNotMultiplyWhatLives: with a GOGC of 800, 128 MiB that live would let the
// heap grow to more than a gigabyte.
func TestRelaxDoesNotMultiplyWhatLives(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer Relax()()
	lives := make([]byte, 2*garbage)
	var m runtime.MemStats
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		runtime.GC()
		if runtime.ReadMemStats(&m); m.NextGC < 5*garbage {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("with %d bytes living, the next collection comes at %d, want twice as many", len(lives), m.NextGC)
		}
	}
	runtime.KeepAlive(lives)
}

// TestRelaxBoundsAJump: what lives may grow between two collections, and with a GOGC
// of 800 the next one would come at ninefold of that.
func TestRelaxBoundsAJump(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	runtime.GC()
	release := Relax()
	runtime.GC()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	var lives [][]byte
	var highest uint64
	for range 96 << 10 {
		lives = append(lives, make([]byte, 1<<10))
		metrics.Read(goal)
		highest = max(highest, goal[0].Value.Uint64())
	}
	if highest > leastLimit {
		t.Errorf("while %d MiB came to life, the next collection was to come at %d MiB, want %d at most",
			len(lives)>>10, highest>>20, leastLimit>>20)
	}
	release()
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the memory limit is %d after the release, want none, as it was", got)
	}
	runtime.KeepAlive(lives)
}

// TestRelaxLimitsNothingThatLives: a limit below what lives would have the collector
// run all the time.
func TestRelaxLimitsNothingThatLives(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer Relax()()
	lives := make([]byte, 2*garbage)
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for runtime.GC(); debug.SetMemoryLimit(-1) != math.MaxInt64; runtime.GC() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("with %d bytes living, the memory limit is %d, want none", len(lives), debug.SetMemoryLimit(-1))
		}
	}
	runtime.KeepAlive(lives)
}

func TestPercentFor(t *testing.T) {
	for _, c := range []struct {
		living uint64
		usual  int
		want   int
	}{
		{0, 100, 800}, {1 << 20, 100, 800}, {8 << 20, 100, 800}, {16 << 20, 100, 400}, {32 << 20, 100, 200},
		{64 << 20, 100, 100}, {1 << 30, 100, 100}, {1 << 30, 50, 50}, {1 << 60, 200, 200},
	} {
		if got := percentFor(c.living, c.usual); got != c.want {
			t.Errorf("percentFor(%d, %d) = %d, want %d", c.living, c.usual, got, c.want)
		}
	}
}

func TestRelaxLeavesToTheOperator(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	for _, variable := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv("GOGC", "")
			t.Setenv("GOMEMLIMIT", "")
			t.Setenv(variable, "100")
			release := Relax()
			defer release()
			if got := debug.SetGCPercent(100); got != 100 {
				t.Errorf("%s is set, and Relax made GOGC %d; want 100, as it was", variable, got)
			}
		})
	}
}

func TestLimitIsThatOfTheControlGroups(t *testing.T) {
	const none = math.MaxUint64
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  uint64
	}{
		"no control groups": {fstest.MapFS{}, none},
		"version 2": {fstest.MapFS{
			"proc/self/cgroup": file("0::/system.slice/mayfly.service\n"), "sys/fs/cgroup/system.slice/mayfly.service/memory.max": file("134217728\n"),
		}, 128 << 20},
		"no limit": {fstest.MapFS{
			"proc/self/cgroup": file("0::/system.slice/mayfly.service\n"), "sys/fs/cgroup/system.slice/mayfly.service/memory.max": file("max\n"),
		}, none},
		"the limit of a group above": {fstest.MapFS{
			"proc/self/cgroup": file("0::/pod/mayfly\n"), "sys/fs/cgroup/pod/memory.max": file("1000\n"), "sys/fs/cgroup/pod/mayfly/memory.max": file("2000\n"),
		}, 1000},
		"a limit that slows down before": {fstest.MapFS{
			"proc/self/cgroup": file("0::/a\n"), "sys/fs/cgroup/a/memory.max": file("2000\n"), "sys/fs/cgroup/a/memory.high": file("1500\n"),
		}, 1500},
		"a container": {fstest.MapFS{
			"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("3000\n"),
		}, 3000},
		"a path outside of the container": {fstest.MapFS{
			"proc/self/cgroup": file("0::/../../pod\n"), "sys/fs/cgroup/memory.max": file("3000\n"),
		}, 3000},
		"version 1": {fstest.MapFS{
			"proc/self/cgroup": file("5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n"),
			"sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": file("4000\n"), "sys/fs/cgroup/docker/1/memory.max": file("1\n"),
		}, 4000},
		"version 1 in a container": {fstest.MapFS{
			"proc/self/cgroup": file("4:memory:/docker/1\n0::/\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("5000\n"),
		}, 5000},
		"junk": {fstest.MapFS{
			"proc/self/cgroup": file("memory\n0:\n:::::\n0::/a\n"), "sys/fs/cgroup/a/memory.max": file("-1\n"), "sys/fs/cgroup/memory.max": file(""),
		}, none},
	} {
		if got := limit(c.files); got != c.want {
			t.Errorf("%s: limit = %d, want %d", name, got, c.want)
		}
	}
}
