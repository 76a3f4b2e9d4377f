package stack

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/cmd/internal/memory"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/auditor"
	"github.com/mayfly-ca/mayfly/internal/floor"
)

// BenchmarkIssuance is the whole of an issuance in process: REST v2 through the
// real handler, token check, proof, policy, journal and log in the box with
// their fsyncs, both CA signatures. Beside the usual figures it reports
//
//	issued/s, p50-ms, p99-ms   as a client would see them
//	cpu-us                     CPU time of the process per certificate
//	floor-us                   that of the public-key operations alone, which
//	                           [floor] lists, measured in turns with the former
//	cpu/floor                  the headline: the one divided by the other
//	audit-us                   CPU time of the log audit for a certificate, which
//	                           reads each one twice a minute at most; no part of
//	                           cpu-us unless its time comes during the run
//
// The ratio is the one to compare across machines: 1 would be a service that
// does nothing but arithmetic. What the benchmark itself does for a request, a
// header and a body to read from, is part of it.
func BenchmarkIssuance(b *testing.B) {
	s := newSite(b)
	s.initLog()
	r := s.loaded()
	handler, calls := r.server.Handler(), s.calls(apiV2, "P-256")
	arithmetic := newFloor(b, floor.Spec{})
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			auditCPU(b, r) // of what was issued before
			measure(b, clients, arithmetic, inProcess(b, handler, calls))
			b.ReportMetric(auditCPU(b, r)/1e3, "audit-us")
		})
	}
}

// auditCPU has the audit read what is new in the log, and returns the CPU time in
// nanoseconds for each certificate.
func auditCPU(b *testing.B, r *running) float64 {
	b.Helper()
	a := r.auditing.Load()
	if a == nil {
		return 0 // it opens in a moment, and there is nothing yet
	}
	read := func(report *auditor.Report) (entries uint64) {
		if report != nil {
			for _, l := range report.Logs {
				entries += l.Read
			}
		}
		return entries
	}
	before, start := read(a.Report()), processCPU(b)
	report := a.Round(b.Context())
	if len(report.Alarms) > 0 {
		b.Errorf("the audit raises %v", report.Alarms)
	}
	return float64(processCPU(b)-start) / float64(max(read(&report)-before, 1))
}

// BenchmarkMix is BenchmarkIssuance with 16 clients, for every key, token and
// door that is supported: one thing is changed at a time.
func BenchmarkMix(b *testing.B) {
	for _, mix := range []struct {
		name string
		spec floor.Spec
		api  api
	}{
		{"default", floor.Spec{}, apiV2},
		{"ca=P-384", floor.Spec{CAKey: "P-384"}, apiV2},
		{"ca=RSA-3072", floor.Spec{CAKey: "RSA-3072"}, apiV2},
		{"token=ES256", floor.Spec{Token: "ES256"}, apiV2},
		{"api=v1", floor.Spec{}, apiV1},
		{"api=grpc", floor.Spec{}, apiGRPC},
		{"client=P-384", floor.Spec{Client: "P-384"}, apiV2},
		{"client=RSA-2048", floor.Spec{Client: "RSA-2048"}, apiV2},
		{"client=RSA-4096", floor.Spec{Client: "RSA-4096"}, apiV2},
		{"client=Ed25519", floor.Spec{Client: "Ed25519"}, apiV2},
		{"logs=disabled", floor.Spec{Log: floor.LogNone}, apiV2},
	} {
		var ask func(i int) time.Duration
		var arithmetic *floor.Floor
		top := b // the service runs until the last round is over
		b.Run(mix.name, func(b *testing.B) {
			if ask == nil {
				s, more := siteOf(top, mix.spec)
				ask = inProcess(top, s.loaded(more...).server.Handler(), s.calls(mix.api, mix.spec.Client))
				arithmetic = newFloor(b, mix.spec)
			}
			measure(b, 16, arithmetic, ask)
		})
	}
}

// siteOf is a site with the keys of a floor, and what to edit in its
// configuration.
func siteOf(b *testing.B, spec floor.Spec) (s *site, edits []string) {
	b.Helper()
	if spec.Token == "ES256" {
		s = newSiteOf(b, jose.ES256, newKey(b))
		edits = append(edits, "audiences: [sigstore]", "audiences: [sigstore]\n    algorithms: [ES256]")
	} else {
		s = newSite(b)
	}
	if spec.CAKey != "" {
		s.makePKIOf("Corp", x509.ExtKeyUsageCodeSigning, newSigner(b, spec.CAKey))
	}
	if spec.Log == floor.LogNone {
		return s, append(edits, "logs:\n"+embeddedLogs, "logs: disabled")
	}
	s.initLog()
	return s, edits
}

// loaded runs the service as it is configured for people, except for the limits
// of site's configuration and the edits.
func (s *site) loaded(edits ...string) *running {
	s.t.Helper()
	ln := listen(s.t)
	s.configure(ln.Addr().String(), "")
	s.edit(edits...)
	f, err := config.Load(s.dir+"/mayfly.yaml", nil)
	s.must(err)
	return s.start(f, Options{Listener: ln})
}

func newFloor(b *testing.B, spec floor.Spec) *floor.Floor {
	b.Helper()
	f, err := floor.New(spec)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

func newSigner(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "P-256":
		key = newKey(t)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "RSA-2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "RSA-3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "RSA-4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	default:
		t.Fatalf("unknown kind of key %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// turn is how many requests each client makes before the floor has its turn: so
// many that the first and the last, which have the service to themselves, do not
// count.
const turn = 32

// measure has clients ask b.N times, in turns with the floor, reports what came of
// it and returns how many answers there were in a second.
func measure(b *testing.B, clients int, f *floor.Floor, ask func(i int) time.Duration) float64 {
	b.Helper()
	spread(max(64, 2*clients), clients, ask)
	b.ReportAllocs()
	b.ResetTimer()
	m := inTurns(b, b.N, clients, f, func(n int) []time.Duration { return spread(n, clients, ask) })
	b.StopTimer()
	m.report(b)
	return m.rate
}

// relax sets what the program sets of its runtime before it serves, for as long as
// this process lives.
var relax = sync.OnceFunc(func() { memory.Relax() })

// measured is what some requests took, and one round of the floor beside them.
type measured struct {
	rate       float64 // answers a second
	p50, p99   time.Duration
	cpu, floor float64 // nanoseconds of CPU time, of one
}

func (m measured) report(b *testing.B) {
	b.ReportMetric(m.rate, "issued/s")
	b.ReportMetric(m.p50.Seconds()*1e3, "p50-ms")
	b.ReportMetric(m.p99.Seconds()*1e3, "p99-ms")
	b.ReportMetric(m.cpu/1e3, "cpu-us")
	b.ReportMetric(m.floor/1e3, "floor-us")
	b.ReportMetric(m.cpu/m.floor, "cpu/floor")
}

// inTurns makes n requests, some at a time by calling ask, in turns with the
// floor, for which the benchmark's timer is stopped.
func inTurns(b *testing.B, n, clients int, f *floor.Floor, ask func(n int) []time.Duration) measured {
	b.Helper()
	relax()
	threads := min(clients, runtime.GOMAXPROCS(0))
	var (
		took       []time.Duration
		wall       time.Duration
		arithmetic time.Duration // of all rounds of the floor
		rounds     int
	)
	all := processCPU(b)
	for len(took) < n {
		start := time.Now()
		now := ask(min(n-len(took), turn*clients))
		wall += time.Since(start)
		took = append(took, now...)
		b.StopTimer()
		// As many at once as ask at once: cores that share caches and power are
		// slower together. An eighth is enough, and little next to what it is
		// compared with: the collector's work for it counts on the other side.
		each := max(8, len(now)/8/threads)
		var sum atomic.Int64
		var wg sync.WaitGroup
		for range threads {
			wg.Go(func() { sum.Add(int64(f.CPU(each)) * int64(each)) })
		}
		wg.Wait()
		arithmetic, rounds = arithmetic+time.Duration(sum.Load()), rounds+each*threads
		b.StartTimer()
	}
	slices.Sort(took)
	return measured{
		rate: float64(n) / wall.Seconds(), p50: took[len(took)/2], p99: took[len(took)*99/100],
		// What the service still did in the floor's turns is its own too.
		cpu: float64(processCPU(b)-all-arithmetic) / float64(n), floor: float64(arithmetic) / float64(rounds),
	}
}

// spread has some goroutines call do for 0 to n-1, and returns how long each call
// took.
func spread(n, goroutines int, do func(i int) time.Duration) []time.Duration {
	took := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				took[i] = do(i)
			}
		})
	}
	wg.Wait()
	return took
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// inProcess asks the handler itself, in no transport.
func inProcess(b *testing.B, handler http.Handler, calls []call) func(i int) time.Duration {
	var first sync.Once // one complaint is enough
	return func(i int) time.Duration {
		c := calls[i%len(calls)]
		req, w := c.request(context.Background()), c.reply()
		start := time.Now()
		handler.ServeHTTP(w, req)
		took := time.Since(start)
		if err := w.bad(); err != nil {
			first.Do(func() { b.Errorf("request %d: %v", i, err) })
		}
		return took
	}
}
