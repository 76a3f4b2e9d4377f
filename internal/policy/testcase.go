package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// maxTestClaims bounds a file of claims, as tokens are bounded.
const maxTestClaims = 64 << 10

// Case is a test that an administrator keeps beside the rules.
type Case struct {
	// Issuer is the issuer's name in the configuration, URL its issuer URL.
	Issuer, URL string
	// Rule is the rule that a name is expected from; empty means any.
	Rule string
	// Claims is the content of a token as a JSON object.
	Claims []byte
	// At is when the request is made.
	At time.Time
	// Expect is the name in the certificate with its kind, such as
	// "email:alice@corp.example", or "refuse", or "refuse:" and a reason.
	Expect string
	// KeyType, Source and API are what rules read as request.key_type,
	// request.source and request.api. No key type means ecdsa-p256 and no API
	// rest-v2, which is what stock clients use.
	KeyType ca.KeyKind
	Source  netip.Addr
	API     string
	// EmailVerifiedString is the issuer's setting of that name.
	EmailVerifiedString bool
}

// Test decides what a token with these claims would get, and returns an error
// with the explanation when that is not what was expected. It looks at policy
// only: the claims of a case are taken as verified.
func (p *Policy) Test(_ context.Context, c Case) error {
	f, err := c.facts()
	if err != nil {
		return fmt.Errorf("reading the claims: %w", err)
	}
	e := p.explain(f)
	got := "refuse:" + string(e.Reason)
	if e.Allowed {
		got = string(e.SANKind) + ":" + e.SAN
	}
	switch {
	case c.Expect == "refuse" && !e.Allowed:
		return nil
	case got != c.Expect:
		return fmt.Errorf("got %s, expected %s\n%s", got, c.Expect, e)
	case e.Allowed && c.Rule != "" && e.Rule != c.Rule:
		return fmt.Errorf("got %s from the rule %q, expected it from %q\n%s", got, e.Rule, c.Rule, e)
	}
	return nil
}

// ExplainCase is [Policy.Explain] for claims whose token is not at hand.
func (p *Policy) ExplainCase(_ context.Context, c Case) (Explanation, error) {
	f, err := c.facts()
	if err != nil {
		return Explanation{}, fmt.Errorf("reading the claims: %w", err)
	}
	return p.explain(f), nil
}

// facts turns claims into what the token layer would hand over.
func (c Case) facts() (*facts, error) {
	if len(c.Claims) > maxTestClaims {
		return nil, fmt.Errorf("%d bytes, more than %d", len(c.Claims), maxTestClaims)
	}
	d := json.NewDecoder(bytes.NewReader(c.Claims))
	d.UseNumber()
	var claims map[string]any
	if err := d.Decode(&claims); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the object")
	}
	if claims == nil {
		return nil, errors.New("not an object")
	}
	text := func(name string) string {
		s, _ := claims[name].(string)
		return s
	}
	verified := claims["email_verified"]
	id := ca.Identity{
		IssuerName: c.Issuer, Issuer: c.URL, Subject: text("sub"), Email: text("email"), Claims: claims,
		EmailVerified: verified == true || c.EmailVerifiedString && verified == "true",
		Token:         ca.TokenFacts{AuthorizedParty: text("azp"), ID: text("jti"), IssuedAt: seconds(claims["iat"]), Expires: seconds(claims["exp"])},
	}
	switch aud := claims["aud"].(type) {
	case string:
		id.Token.Audience = []string{aud}
	case []any:
		for _, a := range aud {
			if s, ok := a.(string); ok {
				id.Token.Audience = append(id.Token.Audience, s)
			}
		}
	}
	return &facts{
		id: id, claims: object{members: claims}, now: c.At,
		keyType: string(cmp.Or(c.KeyType, ca.KeyECDSAP256)), source: c.Source.Unmap(), api: cmp.Or(c.API, "rest-v2"),
	}, nil
}

func seconds(v any) time.Time {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}
	}
	s, err := n.Int64()
	if err != nil {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}
