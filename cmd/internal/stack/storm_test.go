package stack

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// Two hundred reloads under load, every fourth of a file that is cut off: no request
// fails, and nothing is left of what was replaced.
func TestStormOfReloads(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	good := s.read("mayfly.yaml")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var issued atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := ask(t, r.url, s.token(nil)); a.status != http.StatusOK {
					t.Errorf("during the storm: %d %s", a.status, a.body)
					return
				}
				issued.Add(1)
			}
		})
	}
	storm := func(n int) {
		for i := range n {
			text := good
			switch i % 4 {
			case 0:
				text = fmt.Appendf(nil, "%slogging: {level: debug} # %d\n", good, i)
			case 1:
				text = good[:len(good)*i%len(good)]
			case 2: // another token layer
				text = bytes.Replace(good, []byte("[sigstore]"), fmt.Appendf(nil, "[sigstore, ci-%d]", i), 1)
			}
			s.must(os.WriteFile(filepath.Join(s.dir, "mayfly.yaml"), text, 0o600))
			_, err := r.Reload(t.Context(), "storm")
			if good := i%4 != 1; good != (err == nil) {
				t.Fatalf("reload %d of a file that is good %v: %v", i, good, err)
			}
		}
	}
	storm(20)
	goroutines, memory := settledUse(r)
	storm(180)
	close(stop)
	wg.Wait()
	moreGoroutines, moreMemory := settledUse(r)
	if moreGoroutines > goroutines+4 {
		t.Errorf("%d goroutines after twenty reloads, %d after two hundred", goroutines, moreGoroutines)
	}
	if moreMemory > memory+8<<20 {
		t.Errorf("%d KiB after twenty reloads, %d KiB after two hundred", memory>>10, moreMemory>>10)
	}
	t.Logf("%d certificates, %d then %d goroutines, %d then %d KiB", issued.Load(), goroutines, moreGoroutines, memory>>10, moreMemory>>10)
}

// settledUse waits until what was replaced has ended.
func settledUse(r *running) (goroutines int, memory uint64) {
	r.retiring.Wait()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}
