package oidc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/mayfly-ca/mayfly/ca"
)

// Verifier verifies tokens of the configured issuers. It is safe for concurrent
// use. Without [Verifier.Run] it never has keys and refuses every token.
type Verifier struct {
	limit   int
	clock   func() time.Time
	metrics *metrics
	issuers []*issuer
	// byURL finds an issuer by every iss that means it.
	byURL map[string]*issuer
	uses  *uses
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
	v := &Verifier{
		limit: cfg.MaxTokenBytes, clock: cfg.Clock, metrics: m, byURL: make(map[string]*issuer),
		uses: newUses(maxUses),
	}
	if cfg.Previous != nil {
		v.uses = cfg.Previous.uses
	}
	blocks := newBlocklist(cfg.BlockedKeys)
	for _, c := range cfg.Issuers {
		is := &issuer{
			Issuer: c, clock: cfg.Clock, log: cfg.Logger, metrics: m,
			early: newEarly(c.Refresh), blocks: blocks, cacheDir: cfg.CacheDir,
			verified: m.start(c.Name),
		}
		if err := is.useStatic(); err != nil {
			return nil, fmt.Errorf("oidc: issuer %q: %w", c.Name, err)
		}
		is.fetcher = newFetcher(&is.Issuer)
		v.issuers = append(v.issuers, is)
		v.byURL[c.URL] = is
		for _, iss := range c.AcceptedIssuers {
			v.byURL[iss] = is
		}
	}
	return v, nil
}

// useStatic takes the keys that the operator gave.
func (is *issuer) useStatic() error {
	if is.StaticJWKS == nil {
		return nil
	}
	keys, err := parseKeySet(is.StaticJWKS)
	switch {
	case err != nil:
		return fmt.Errorf("static key set: %w", err)
	case keys.leaked:
		// A provider is not stopped by the mistakes it makes; this one can be
		// mended before it does harm.
		return fmt.Errorf("static key set: %w", errLeaked)
	}
	snap := &snapshot{keySet: keys, generation: 1, fetchedAt: is.clock()}
	is.keys.Store(snap)
	is.metrics.refreshed(is.Name, snap.fetchedAt, len(keys.keys))
	return nil
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

// Verify returns the identity that a token vouches for. It does no I/O, but may
// wait up to two seconds for a refresh of keys, if no known key verifies the
// token. Every error is a [*ca.Refusal]: of kind invalid when the token can never
// succeed, denied when the configuration turns it away,
// exhausted when it was used too often, unavailable when the issuer's keys are
// missing or too old.
func (v *Verifier) Verify(ctx context.Context, raw string) (ca.Identity, error) {
	id, name, r := v.verify(ctx, raw)
	if r != nil {
		v.metrics.reject(name, r.Reason)
		return ca.Identity{}, r
	}
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
	now := v.clock()
	if id, r = is.verify(ctx, t, now); r == nil {
		r = v.uses.take(&is.Issuer, &id, now)
	}
	if r == nil {
		is.verified.Inc()
	}
	return id, is.Name, r
}

// verify decides about a token that names this issuer.
func (is *issuer) verify(ctx context.Context, t *token, now time.Time) (ca.Identity, *ca.Refusal) {
	if r := is.checkKind(t); r != nil {
		return ca.Identity{}, r
	}
	switch {
	case !slices.Contains(is.Algorithms, t.alg):
		return ca.Identity{}, invalid(ca.ReasonAlgNotAllowed, "alg %.20q is not allowed", t.alg)
	case !t.hasKeyID && !is.AllowNoKeyID:
		return ca.Identity{}, invalid(ca.ReasonKeyUnknown, "token has no kid")
	}
	// That it is too late is so whoever has signed the token, and cheaper to find
	// out than who has.
	if exp, err := numericDate(t.claims["exp"]); err == nil && !now.Before(exp.Add(is.ClockSkew)) {
		return ca.Identity{}, expired(exp, now)
	}
	snap, stale, r := is.current(now)
	if r != nil {
		return ca.Identity{}, r
	}
	id, r := is.check(ctx, t, snap, now)
	if r == nil {
		id.Token.StaleKeys = stale
		return id, nil
	}
	newer, r := is.newerKeys(ctx, t, snap, now, r)
	if r != nil {
		return ca.Identity{}, r
	}
	if id, r = is.check(ctx, t, newer, now); r != nil && (r.Reason == ca.ReasonKeyUnknown || r.Reason == ca.ReasonBadSignature) {
		is.early.remember(miss{t.keyID, newer.generation}, now)
	}
	return id, r
}

// check verifies a token with the keys of one snapshot.
func (is *issuer) check(ctx context.Context, t *token, snap *snapshot, now time.Time) (ca.Identity, *ca.Refusal) {
	candidates, r := snap.find(t, is.blocks)
	if r != nil {
		return ca.Identity{}, r
	}
	check := &signatureCheck{token: t, candidates: candidates}
	// go-oidc reads the claims from what VerifySignature returns. Of the token it
	// needs no more than the header, in which it reads alg again, unless it has
	// done so before.
	detached, alg, known := is.headers.toRead(t)
	check.algorithms[0] = alg
	at := now.Add(-is.ClockSkew)
	check.config = gooidc.Config{
		SupportedSigningAlgs: check.algorithms[:],
		// go-oidc knows one client; checkAudience knows several.
		SkipClientIDCheck: true,
		Now:               func() time.Time { return at },
	}
	// checkIssuer has the last word; here it is enough that both read the same.
	read, err := gooidc.NewVerifier(t.issuer, check, &check.config).Verify(ctx, detached)
	switch {
	case check.failed:
		return ca.Identity{}, invalid(ca.ReasonBadSignature, "no key with kid %.80q verifies the signature", t.keyID)
	case check.signer == nil:
		return ca.Identity{}, invalid(ca.ReasonTokenMalformed, "parsing token: %w", err)
	}
	id, r := is.identity(t, now)
	if r != nil {
		return ca.Identity{}, r
	}
	if err != nil {
		// Nothing that go-oidc checks is left unchecked above, so it has read
		// something else than we did, or insists on claims that we do not use.
		return ca.Identity{}, invalid(ca.ReasonTokenMalformed, "verifying token: %w", err)
	}
	if !agrees(read, t, &id) {
		return ca.Identity{}, invalid(ca.ReasonTokenMalformed, "token has claims that differ only in the case of their names")
	}
	if !known {
		is.headers.remember(t.headerText)
	}
	id.Token.KeyThumbprint = check.signer.thumbprint
	return id, nil
}

// agrees reports that go-oidc, which matches claim names by case folding and
// takes the last of several, has read the same token.
func agrees(read *gooidc.IDToken, t *token, id *ca.Identity) bool {
	return read.Issuer == t.issuer && read.Subject == id.Subject &&
		slices.Equal(read.Audience, id.Token.Audience) &&
		read.Expiry.Equal(id.Token.Expires) && read.IssuedAt.Equal(id.Token.IssuedAt)
}

// signatureCheck is the gooidc.KeySet for one token: it verifies with the keys
// of one snapshot that may have signed it. go-oidc's own RemoteKeySet fetches for
// every bad token, ignores use and alg of keys, and keeps withdrawn keys.
type signatureCheck struct {
	token      *token
	candidates []*key
	// config is go-oidc's, and algorithms a part of it: all that it is given is
	// made at once.
	config     gooidc.Config
	algorithms [1]string
	// signer is the key that verified the signature; failed says that none did,
	// as go-oidc flattens errors to text.
	signer *key
	failed bool
}

var errSignature = errors.New("signature not verified")

// VerifySignature implements gooidc.KeySet. What go-oidc passes on is the
// detached token; this checks the whole one, and returns the payload whose
// signature it has verified.
func (c *signatureCheck) VerifySignature(context.Context, string) ([]byte, error) {
	for _, k := range c.candidates {
		if k.verifies(c.token.alg, c.token.signed, c.token.signature) {
			c.signer = k
			return c.token.payload, nil
		}
	}
	c.failed = true
	return nil, errSignature
}
