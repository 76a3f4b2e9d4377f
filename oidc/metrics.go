package oidc

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
)

// unknownIssuer is the label of tokens whose issuer is not configured. What
// such a token says must not become a label: anyone can make up issuers.
const unknownIssuer = "unknown"

type metrics struct {
	verified, rejected, failures, foreign, early, cache *prometheus.CounterVec
	fetched, keys                                       *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		early: counter("mayfly_oidc_early_refresh_requests_total",
			"Tokens that no key verified and that asked for newer keys: waited for a refresh, or spared one because of the limits. An increase is a rotation at the provider or, if it lasts, forged tokens.",
			"issuer", "result"),
		cache: counter("mayfly_oidc_cache_failures_total",
			"Keys that could not be kept on disk. An increase means that a restart during an outage of the provider would have no keys.", "issuer"),
		verified: counter("mayfly_oidc_verified_tokens_total",
			"Tokens that were verified. An increase is normal use.", "issuer"),
		rejected: counter("mayfly_oidc_rejected_tokens_total",
			"Tokens that were refused. An increase means misconfigured clients, an attack or, for idp_keys_*, an issuer that cannot be reached.",
			"issuer", "reason"),
		failures: counter("mayfly_oidc_refresh_failures_total",
			"Failed attempts to fetch an issuer's keys. An increase means that keys are ageing towards max_stale.", "issuer"),
		foreign: counter("mayfly_oidc_foreign_key_headers_total",
			"Tokens of this issuer's name that brought a key or the address of one (jku, x5u, jwk, x5c), which is ignored. An increase may be an attack.",
			"issuer"),
		fetched: gauge("mayfly_oidc_keys_fetched_timestamp_seconds",
			"When the keys in force were fetched. time() minus this is their age; an age above twice the refresh means that refreshes fail.", "issuer"),
		keys: gauge("mayfly_oidc_usable_keys",
			"Usable keys of the issuer. An increase means a rotation, or keys that nobody expected.", "issuer"),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []**prometheus.CounterVec{&m.verified, &m.rejected, &m.failures, &m.foreign, &m.early, &m.cache} {
		if err := register(reg, c); err != nil {
			return nil, err
		}
	}
	for _, g := range []**prometheus.GaugeVec{&m.fetched, &m.keys} {
		if err := register(reg, g); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// register adopts what an earlier Verifier registered: a reload makes a new one
// while the old one drains, and counters must not start again.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	if dup, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := dup.ExistingCollector.(C); ok {
			*c = existing
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("oidc: registering metrics: %w", err)
	}
	return nil
}

// start makes the series of an issuer exist, so that a first increase shows, and
// returns the one that counts its verified tokens.
func (m *metrics) start(issuer string) (verified prometheus.Counter) {
	m.failures.WithLabelValues(issuer)
	return m.verified.WithLabelValues(issuer)
}

func (m *metrics) reject(issuer string, reason ca.Reason) {
	m.rejected.WithLabelValues(issuer, string(reason)).Inc()
}

func (m *metrics) cacheFailed(issuer string) { m.cache.WithLabelValues(issuer).Inc() }

func (m *metrics) failed(issuer string) { m.failures.WithLabelValues(issuer).Inc() }

func (m *metrics) refreshed(issuer string, at time.Time, keys int) {
	m.fetched.WithLabelValues(issuer).Set(float64(at.Unix()))
	m.keys.WithLabelValues(issuer).Set(float64(keys))
}
