package pkcs11

import (
	"errors"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	signing   prometheus.Observer
	errors    *prometheus.CounterVec
	bad       prometheus.Counter
	logins    prometheus.Counter
	renewals  prometheus.Counter
	sessions  *prometheus.GaugeVec
	lost      *prometheus.GaugeVec
	stuck     *prometheus.GaugeVec
	ready     *prometheus.GaugeVec
	gauges    []*prometheus.GaugeVec
	token     string
	codesSeen codesSeen
	// values are what the gauges are to show; owners guards it.
	values map[*prometheus.GaugeVec]float64
}

// maxCodes bounds the label: a vendor has 2^31 codes of his own.
const maxCodes = 48

type codesSeen struct {
	// mu guards names.
	mu    sync.Mutex
	names map[string]bool
}

// bounded returns name, or "other" if there are too many already.
func (c *codesSeen) bounded(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.names[name]:
		return name
	case len(c.names) >= maxCodes:
		return "other"
	case c.names == nil:
		c.names = make(map[string]bool)
	}
	c.names[name] = true
	return name
}

// newMetrics registers the metrics of a token. A reload makes a token anew,
// which goes on counting where the one before it stopped.
func newMetrics(reg prometheus.Registerer, token string) (*metrics, error) {
	r := registrar{reg: reg, labels: []string{"token"}}
	signing := register(&r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mayfly_hsm_sign_duration_seconds",
		Help:    "Time that a token took for a verified signature, waiting for a session included. A rise means that the token is slow or has too few sessions.",
		Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 4},
	}, r.labels))
	errs := register(&r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_hsm_errors_total",
		Help: "Errors of a token by what they mean and the code it gave. An increase of device or unknown means that the token was away or ill, of fatal that it refused the PIN.",
	}, []string{"token", "class", "code"}))
	counter := func(name, help string) prometheus.Counter {
		return register(&r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, r.labels)).WithLabelValues(token)
	}
	var gauges []*prometheus.GaugeVec
	gauge := func(name, help string) *prometheus.GaugeVec {
		g := register(&r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, r.labels))
		gauges = append(gauges, g)
		return g
	}
	m := &metrics{
		token: token, values: make(map[*prometheus.GaugeVec]float64), errors: errs, signing: signing.WithLabelValues(token),
		bad:      counter("mayfly_hsm_bad_signatures_total", "Signatures of a token that did not verify. None left the process. Any increase means a token that is broken or has another key: find out before you trust it again."),
		logins:   counter("mayfly_hsm_logins_total", "Logins to a token. An increase after the start means that the connection was lost and made anew."),
		renewals: counter("mayfly_hsm_reinitialisations_total", "Times that a token could only be had back by initialising its library anew. Each ends the sessions of every token in that library."),
		sessions: gauge("mayfly_hsm_open_sessions", "Sessions open with a token. An increase means more signatures at a time."),
		lost:     gauge("mayfly_hsm_lost_sessions", "Sessions in calls that nobody waits for any more. A lasting increase means that the token hangs."),
		stuck:    gauge("mayfly_hsm_stuck_calls", "Calls that hang in a token's library. An increase means that less and less of the token is left, up to a restart."),
		ready:    gauge("mayfly_hsm_ready", "1 if a token signs; an increase means that it was healed, a drop that it is away or refused the PIN."),
	}
	m.gauges = gauges
	if r.err == nil {
		m.own()
	}
	return m, r.err
}

// owners has the metrics of the tokens of a name, the latest last: it alone sets
// the gauges. A reload may open a token anew before it closes the old one, whose
// last words must not stand for the new one; and if the reload is refused, the
// new one goes first and the old one's values stand again.
var owners = struct {
	sync.Mutex
	of map[ownership][]*metrics
}{of: make(map[ownership][]*metrics)}

type ownership struct {
	ready *prometheus.GaugeVec
	token string
}

func (m *metrics) owner() ownership { return ownership{m.ready, m.token} }

func (m *metrics) own() {
	owners.Lock()
	defer owners.Unlock()
	owners.of[m.owner()] = append(owners.of[m.owner()], m)
}

// set sets a gauge, unless another token took over.
func (m *metrics) set(g *prometheus.GaugeVec, value float64) {
	owners.Lock()
	defer owners.Unlock()
	all := owners.of[m.owner()]
	if !slices.Contains(all, m) {
		return // closed
	}
	m.values[g] = value
	if all[len(all)-1] == m {
		g.WithLabelValues(m.token).Set(value)
	}
}

// close takes the gauges of a token that is no more away.
func (m *metrics) close() {
	owners.Lock()
	defer owners.Unlock()
	all := owners.of[m.owner()]
	last := len(all) > 0 && all[len(all)-1] == m
	all = slices.DeleteFunc(all, func(other *metrics) bool { return other == m })
	owners.of[m.owner()] = all
	if len(all) == 0 {
		delete(owners.of, m.owner())
	}
	if !last {
		return
	}
	for _, g := range m.gauges {
		g.DeleteLabelValues(m.token)
	}
	if len(all) > 0 {
		for g, value := range all[len(all)-1].values {
			g.WithLabelValues(m.token).Set(value)
		}
	}
}

// registrar registers one metric after the other and keeps the first error.
type registrar struct {
	reg    prometheus.Registerer
	labels []string
	err    error
}

func register[C prometheus.Collector](r *registrar, c C) C {
	if r.reg == nil || r.err != nil {
		return c
	}
	err := r.reg.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	r.err = err
	return c
}

func (m *metrics) failed(err error) {
	m.errors.WithLabelValues(m.token, classify(err).String(), m.codesSeen.bounded(codeName(err))).Inc()
}
