package oidc

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/ca"
)

// Verifier verifies tokens of the configured issuers. It is safe for concurrent
// use. Without [Verifier.Run] it never has keys and refuses every token.
type Verifier struct {
	limit   int
	clock   func() time.Time
	metrics *metrics
	issuers []*issuer
	byURL   map[string]*issuer
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Verifier, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	v := &Verifier{limit: cfg.MaxTokenBytes, clock: cfg.Clock, metrics: m, byURL: make(map[string]*issuer)}
	for _, c := range cfg.Issuers {
		is := &issuer{Issuer: c, clock: cfg.Clock, log: cfg.Logger, metrics: m}
		is.fetcher = newFetcher(&is.Issuer)
		v.issuers = append(v.issuers, is)
		v.byURL[c.URL] = is
		m.start(c.Name)
	}
	return v, nil
}

// Run keeps the keys of every issuer fresh until ctx ends, and returns when all
// refreshers have stopped. It is called once.
func (v *Verifier) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, is := range v.issuers {
		wg.Go(func() { is.run(ctx) })
	}
	wg.Wait()
}

// Ready returns the state of each issuer's keys in the order of the
// configuration. It does no I/O.
func (v *Verifier) Ready() []IssuerStatus {
	now := v.clock()
	status := make([]IssuerStatus, 0, len(v.issuers))
	for _, is := range v.issuers {
		status = append(status, is.status(now))
	}
	return status
}

// Verify returns the identity that a token vouches for. It does no I/O. Every
// error is a [*ca.Refusal]: of kind invalid when the token can never succeed,
// unavailable when the issuer's keys are missing or too old.
func (v *Verifier) Verify(ctx context.Context, raw string) (ca.Identity, error) {
	id, name, r := v.verify(ctx, raw)
	if r != nil {
		v.metrics.reject(name, r.Reason)
		return ca.Identity{}, r
	}
	v.metrics.verified.WithLabelValues(name).Inc()
	return id, nil
}

// verify is Verify with the name of the issuer for the metrics.
func (v *Verifier) verify(ctx context.Context, raw string) (id ca.Identity, name string, r *ca.Refusal) {
	name = unknownIssuer
	if err := ctx.Err(); err != nil {
		return id, name, ca.Refuse(ca.KindUnavailable, ca.ReasonDeadline, "verifying token: %w", err)
	}
	t, r := parseToken(raw, v.limit)
	if r != nil {
		return id, name, r
	}
	is := v.byURL[t.issuer]
	if is == nil {
		return id, name, invalid(ca.ReasonIssuerUnknown, "issuer %.200q is not configured", t.issuer)
	}
	if t.foreignKeys > 0 {
		v.metrics.foreign.WithLabelValues(is.Name).Inc()
	}
	id, r = is.verify(ctx, t, v.clock())
	return id, is.Name, r
}

// verify decides about a token that names this issuer.
func (is *issuer) verify(ctx context.Context, t *token, now time.Time) (ca.Identity, *ca.Refusal) {
	switch {
	case !slices.Contains(is.Algorithms, t.alg):
		return ca.Identity{}, invalid(ca.ReasonAlgNotAllowed, "alg %.20q is not allowed", t.alg)
	case !t.hasKeyID && !is.AllowNoKeyID:
		return ca.Identity{}, invalid(ca.ReasonKeyUnknown, "token has no kid")
	}
	snap, stale, r := is.current(now)
	if r != nil {
		return ca.Identity{}, r
	}
	check := &signatureCheck{keys: snap.keySet, token: t}
	verifier := gooidc.NewVerifier(is.URL, check, &gooidc.Config{
		SupportedSigningAlgs: is.Algorithms,
		// go-oidc knows one client; checkAudience knows several.
		SkipClientIDCheck: true,
		Now:               func() time.Time { return now.Add(-is.ClockSkew) },
	})
	read, err := verifier.Verify(ctx, t.raw)
	if check.signer == nil {
		if check.refusal != nil {
			return ca.Identity{}, check.refusal
		}
		return ca.Identity{}, invalid(ca.ReasonTokenMalformed, "parsing token: %w", err)
	}
	id, r := is.identity(t, check.signer, now)
	if r != nil {
		return ca.Identity{}, r
	}
	if err != nil {
		// Nothing that go-oidc checks is left unchecked above, so it has read
		// something else than we did, or insists on claims that we do not use.
		return ca.Identity{}, invalid(ca.ReasonTokenMalformed, "verifying token: %w", err)
	}
	if !agrees(read, id) {
		return ca.Identity{}, invalid(ca.ReasonTokenMalformed, "token has claims that differ only in the case of their names")
	}
	id.Token.StaleKeys = stale
	return id, nil
}

// agrees reports that go-oidc, which matches claim names by case folding and
// takes the last of several, has read the same token.
func agrees(read *gooidc.IDToken, id ca.Identity) bool {
	return read.Issuer == id.Issuer && read.Subject == id.Subject &&
		slices.Equal(read.Audience, id.Token.Audience) &&
		read.Expiry.Equal(id.Token.Expires) && read.IssuedAt.Equal(id.Token.IssuedAt)
}

// signatureCheck is the gooidc.KeySet for one token: it verifies with the keys
// of one snapshot. go-oidc's own RemoteKeySet fetches for every bad token,
// ignores use and alg of keys, and keeps withdrawn keys.
type signatureCheck struct {
	keys  *keySet
	token *token
	// signer is the key that verified the signature, and refusal why none did;
	// go-oidc flattens errors to text.
	signer  *key
	refusal *ca.Refusal
}

var errSignature = errors.New("signature not verified")

// VerifySignature implements gooidc.KeySet.
func (c *signatureCheck) VerifySignature(_ context.Context, raw string) ([]byte, error) {
	candidates, r := c.keys.find(c.token)
	if r != nil {
		c.refusal = r
		return nil, errSignature
	}
	jws, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(c.token.alg)})
	if err != nil {
		c.refusal = invalid(ca.ReasonTokenMalformed, "parsing token: %w", err)
		return nil, errSignature
	}
	for _, k := range candidates {
		payload, err := jws.Verify(k.public)
		if err == nil && bytes.Equal(payload, c.token.payload) {
			c.signer = k
			return payload, nil
		}
	}
	c.refusal = invalid(ca.ReasonBadSignature, "no key with kid %.80q verifies the signature", c.token.keyID)
	return nil, errSignature
}
