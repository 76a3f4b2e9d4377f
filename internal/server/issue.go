package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca"
)

var (
	errPerAddress  = errors.New("address over its limit")
	errPerIdentity = errors.New("identity over its limit")
)

// input is what a caller asks for, whichever door it came through.
type input struct {
	// token is the one in the body; it may also have come in a header.
	token string
	// csr is a signing request in PEM; empty when a key and proof are given.
	csr []byte
	// publicKey is PEM or DER; proof is the signature by it.
	publicKey, proof []byte
}

// issue is the whole of an issuance as the transports see it, in the order in
// which things get more expensive.
func (s *Server) issue(ctx context.Context, c *call, in input) (cert ca.Certificate, err error) {
	reached := false
	defer func() {
		if err != nil && !reached {
			s.cfg.CountRefusal(refusalOf(err).Reason)
		}
	}()
	if n := max(len(in.csr), len(in.publicKey), len(in.proof)); n > maxKey {
		return ca.Certificate{}, ca.Refuse(ca.KindInvalid, ca.ReasonRequestTooLarge, "key, proof or signing request of %d bytes, limit %d", n, maxKey)
	}
	token, err := s.token(c, in)
	if err != nil {
		return ca.Certificate{}, err
	}
	now := s.cfg.Clock()
	id, err := c.snapshot.Verify(ctx, token)
	if err != nil {
		return ca.Certificate{}, fmt.Errorf("verifying token: %w", err)
	}
	c.identity = id
	// From here on an identity stands behind the request, and the journal hears
	// of whatever becomes of it.
	r := ca.Request{Identity: id, Time: now, ID: c.id, Source: c.source, API: c.api, ConfigDigest: c.snapshot.ConfigDigest}
	reached = true
	// A place is for who has a token. Those that junk could take, while it waits
	// for a turn of the processor or for keys that do not exist, would be missing
	// to honest callers.
	select {
	case s.inFlight <- struct{}{}:
		defer func() { <-s.inFlight }()
	default:
		err := ca.Refuse(ca.KindUnavailable, ca.ReasonOverloaded, "%d issuances in flight", cap(s.inFlight))
		return ca.Certificate{}, c.snapshot.Refuse(ctx, r, err)
	}
	if r.Key, err = s.admit(ctx, in, r); err != nil {
		return ca.Certificate{}, c.snapshot.Refuse(ctx, r, refusalOf(err))
	}
	if cert, err = c.snapshot.Issue(ctx, r); err != nil {
		return ca.Certificate{}, fmt.Errorf("issuing: %w", err)
	}
	return cert, nil
}

// admit is what a verified identity has to get past before it is worth a look
// at policy: its own limit and the proof that it holds the key.
func (s *Server) admit(ctx context.Context, in input, r ca.Request) (ca.ProvenKey, error) {
	id := r.Identity
	if wait, ok := s.identities.take([2]string{id.IssuerName, id.Subject}, r.Time); !ok {
		return ca.ProvenKey{}, &ca.Refusal{Kind: ca.KindExhausted, Reason: ca.ReasonRateLimited, RetryAfter: wait, Err: errPerIdentity}
	}
	key, err := prove(in, id)
	if err != nil {
		return ca.ProvenKey{}, fmt.Errorf("proving key: %w", err)
	}
	// Whatever signs and logs should not begin what nobody waits for.
	if err := ctx.Err(); err != nil {
		return ca.ProvenKey{}, fmt.Errorf("before issuing: %w", err)
	}
	return key, nil
}

// token returns the one token of the request. It may be said twice, but not in
// two versions: then it would depend on the code which one counts, and a proxy
// in front that looked at the other would have been fooled.
func (s *Server) token(c *call, in input) (string, error) {
	token := in.token
	for _, t := range c.tokens {
		switch {
		case token == "":
			token = t
		case t != "" && t != token:
			return "", ca.Refuse(ca.KindInvalid, ca.ReasonTokenConflict, "two different tokens in one request")
		}
	}
	switch {
	case token == "":
		return "", ca.Refuse(ca.KindInvalid, ca.ReasonTokenMissing, "no token in body, header or metadata")
	case len(token) > s.cfg.Limits.TokenBytes:
		return "", ca.Refuse(ca.KindInvalid, ca.ReasonTokenTooLarge, "token of %d bytes, limit %d", len(token), s.cfg.Limits.TokenBytes)
	}
	return token, nil
}

func prove(in input, id ca.Identity) (ca.ProvenKey, error) {
	switch {
	case len(in.csr) > 0:
		return ca.ProveCSR(in.csr)
	case len(in.publicKey) == 0:
		return ca.ProvenKey{}, ca.Refuse(ca.KindInvalid, ca.ReasonKeyMissing, "neither public key nor signing request")
	default:
		return ca.ProveSignature(in.publicKey, in.proof, id)
	}
}
