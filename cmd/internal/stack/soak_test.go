package stack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// soakVariable says how long TestSoak goes on. Its default is there so that the
// test keeps working; what grows slowly shows in ten minutes:
//
//	MAYFLY_SOAK=10m go test -run TestSoak -v -timeout 20m ./cmd/internal/stack
const (
	soakVariable = "MAYFLY_SOAK"
	soakDefault  = 5 * time.Second
	soakClients  = 8
	soakEvery    = 2 * time.Millisecond // so at most 500 certificates a second
	soakSamples  = 60
)

// What the last third of a soak may use above the first. The audit looks at the log
// every half minute and remembers what came in between, so memory goes up and down
// by some megabytes; 160,000 certificates are issued between the middles of the two in
// ten minutes, if the machine keeps the pace, so a leak of 80 bytes for each shows.
var soakBounds = usage{heap: 12 << 20, resident: 48 << 20, goroutines: 16, descriptors: 16}

// usage is what a service holds.
type usage struct{ heap, resident, goroutines, descriptors float64 }

func (u usage) String() string {
	return fmt.Sprintf("%.1f MB live, %.1f MB resident, %.0f goroutines, %.0f descriptors", u.heap/1e6, u.resident/1e6, u.goroutines, u.descriptors)
}

// above names what of u is more than bound above base.
func (u usage) above(base, bound usage) (names []string) {
	for _, x := range []struct {
		name           string
		now, was, room float64
	}{
		{"live memory", u.heap, base.heap, bound.heap}, {"resident memory", u.resident, base.resident, bound.resident},
		{"goroutines", u.goroutines, base.goroutines, bound.goroutines}, {"descriptors", u.descriptors, base.descriptors, bound.descriptors},
	} {
		if x.now > x.was+x.room {
			names = append(names, x.name)
		}
	}
	return names
}

// A service under steady load uses as much at the end as at the beginning.
func TestSoak(t *testing.T) {
	lasts := soakDefault
	if text := os.Getenv(soakVariable); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil || lasts < time.Second {
			t.Fatalf("%s=%q: %v; want a second or more", soakVariable, text, err)
		}
	}
	s := newSite(t)
	s.initLog()
	r := s.run("")
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var load sync.WaitGroup
	var calls atomic.Pointer[[]call]
	var renewed time.Time
	renew := func() { // tokens live for ten minutes
		if time.Since(renewed) > 4*time.Minute {
			calls.Store(new(s.calls(apiV2, "")))
			renewed = time.Now()
		}
	}
	renew()
	issued, refused := steadyLoad(ctx, t, r.url, &calls, &load)
	samples := sampleUse(ctx, t, lasts/soakSamples, renew)
	load.Wait()
	if t.Failed() {
		return
	}
	// The first sixth is for caches, connections and buffers to be filled.
	samples = samples[len(samples)/6:]
	third := len(samples) / 3
	if third == 0 {
		t.Fatalf("%d samples in %v, want some more", len(samples), lasts)
	}
	first, last := middle(samples[:third]), middle(samples[len(samples)-third:])
	t.Logf("%d certificates in %v, %d refusals\nfirst third: %v\nlast third:  %v", issued.Load(), lasts, refused.Load(), first, last)
	if issued.Load() < 20*refused.Load() || issued.Load() == 0 {
		t.Errorf("%d certificates and %d refusals", issued.Load(), refused.Load())
	}
	if grown := last.above(first, soakBounds); len(grown) > 0 {
		t.Errorf("%s grew from\n%v to\n%v, by more than\n%v", strings.Join(grown, ", "), first, last, soakBounds)
	}
}

// steadyLoad asks for certificates over kept connections until ctx ends, never
// faster than soakEvery, whatever the machine could do. A machine whose disk or
// processor is taken for seconds may be refused for it, and goes on.
func steadyLoad(ctx context.Context, t *testing.T, url string, calls *atomic.Pointer[[]call], load *sync.WaitGroup) (issued, refused *atomic.Int64) {
	t.Helper()
	issued, refused = new(atomic.Int64), new(atomic.Int64)
	pace, transport := time.NewTicker(soakEvery), &http.Transport{MaxIdleConnsPerHost: soakClients}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	t.Cleanup(func() { pace.Stop(); transport.CloseIdleConnections() })
	for range soakClients {
		load.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
				all := *calls.Load()
				c := all[int(issued.Load())%len(all)]
				err := askREST(client, url, clientCall{c.target.URL.Path, c.header, c.body})
				if answer, ok := errors.AsType[statusError](err); ok && answer.status == http.StatusServiceUnavailable {
					refused.Add(1)
				} else if err != nil {
					t.Error(err)
					return
				} else {
					issued.Add(1)
				}
			}
		})
	}
	return issued, refused
}

// sampleUse looks at what this process uses until ctx ends.
func sampleUse(ctx context.Context, t *testing.T, every time.Duration, between func()) (samples []usage) {
	t.Helper()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return samples
		case <-tick.C:
		}
		between()
		var u usage
		u.heap, u.resident = memoryUse(t)
		u.goroutines = float64(runtime.NumGoroutine())
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		u.descriptors = float64(len(open))
		samples = append(samples, u)
	}
}

// middle is the median of each.
func middle(samples []usage) usage {
	of := func(value func(usage) float64) float64 {
		values := make([]float64, len(samples))
		for i, u := range samples {
			values[i] = value(u)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return usage{
		of(func(u usage) float64 { return u.heap }), of(func(u usage) float64 { return u.resident }),
		of(func(u usage) float64 { return u.goroutines }), of(func(u usage) float64 { return u.descriptors }),
	}
}

// What TestSoak compares, it finds.
func TestSoakSeesWhatGrows(t *testing.T) {
	base := usage{heap: 10e6, resident: 50e6, goroutines: 40, descriptors: 30}
	for _, tc := range []struct {
		name string
		more usage
		want string
	}{
		{"nothing", usage{}, ""},
		{"memory", usage{heap: soakBounds.heap + 1}, "live memory"},
		{"goroutines", usage{goroutines: soakBounds.goroutines + 1}, "goroutines"},
		{"the rest", usage{resident: soakBounds.resident + 1, descriptors: soakBounds.descriptors + 1}, "resident memory, descriptors"},
		{"within the bounds", soakBounds, ""},
	} {
		var samples []usage
		for i := range 9 { // the odd one out is not the middle
			noise := float64(i%3-1) * 1e5
			samples = append(samples, usage{
				base.heap + tc.more.heap + noise*float64(i%2), base.resident + tc.more.resident, base.goroutines + tc.more.goroutines, base.descriptors + tc.more.descriptors,
			})
		}
		if got := strings.Join(middle(samples).above(base, soakBounds), ", "); got != tc.want {
			t.Errorf("%s: %q grew, want %q", tc.name, got, tc.want)
		}
	}
}
