package oidc

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/ca"
)

const (
	maxSubjectBytes = 1024
	// maxNumericDate is the last second of the year 9999, the last that an
	// X.509 or RFC 3339 time can say.
	maxNumericDate = 253402300799
)

// identityClaims are the claims that name a person or a client in the tokens of
// common providers. Policies and certificates are made from them, people read
// them in logs, and nobody's name has a line break. (iss, aud and azp are
// compared with the configuration and need no such check.)
var identityClaims = []string{
	"sub", "email", "client_id", "jti", "name", "nickname", "preferred_username",
	"upn", "unique_name", "given_name", "family_name", "oid", "tid", "acr", "appid", "uti",
}

// identity checks the claims of a token and makes an identity of them. Whether
// the token is to be believed is the caller's business.
func (is *issuer) identity(t *token, now time.Time) (ca.Identity, *ca.Refusal) {
	id := ca.Identity{IssuerName: is.Name, Issuer: is.URL, Claims: t.claims}
	id.Token.KeyID, id.Token.Algorithm = t.keyID, t.alg
	// A list of checks would make the identity escape to the heap.
	r := is.checkIssuer(t)
	if r == nil {
		r = is.checkAudience(t, &id)
	}
	if r == nil {
		r = is.checkAuthorizedParty(t, &id)
	}
	if r == nil {
		r = is.checkTimes(t, now, &id)
	}
	if r == nil {
		r = t.checkChars()
	}
	if r == nil {
		r = t.checkSubject(&id)
	}
	if r == nil {
		r = t.checkConstraints()
	}
	if r == nil {
		r = is.checkEmail(t, &id)
	}
	if r != nil {
		return ca.Identity{}, r
	}
	id.Token.Digest = t.digest()
	id.Token.ID, _ = t.claims["jti"].(string)
	return id, nil
}

// digest covers what the token says and not how it is written.
func (t *token) digest() [32]byte { return sha256.Sum256(t.said) }

func (is *issuer) checkIssuer(t *token) *ca.Refusal {
	if t.issuer != is.URL && !slices.Contains(is.AcceptedIssuers, t.issuer) {
		return invalid(ca.ReasonIssuerUnknown, "iss is not the issuer whose keys verified the token")
	}
	return nil
}

// checkAudience: OpenID Connect Core, Section 3.1.3.7: "The ID Token MUST be
// rejected if the ID Token does not list the Client as a valid audience, or if
// it contains additional audiences not trusted by the Client."
func (is *issuer) checkAudience(t *token, id *ca.Identity) *ca.Refusal {
	auds, err := stringOrStrings(t.claims["aud"])
	if err != nil {
		return invalid(ca.ReasonAudience, "aud: %w", err)
	}
	id.Token.Audience = auds
	if !slices.ContainsFunc(auds, func(a string) bool { return slices.Contains(is.Audiences, a) }) {
		return invalid(ca.ReasonAudience, "aud %.200q has none of ours", auds)
	}
	for _, a := range auds {
		if !slices.Contains(is.Audiences, a) && !slices.Contains(is.ExtraAudiences, a) {
			return invalid(ca.ReasonAudienceExtra, "aud has %.200q, which is not allowed beside ours", a)
		}
	}
	return nil
}

// checkAuthorizedParty: same section, "If the ID Token contains multiple
// audiences, the Client SHOULD verify that an azp Claim is present", and "If an
// azp Claim is present, the Client SHOULD verify that its client_id is the
// Claim Value". A CA reads both as MUST.
//
// For access tokens see RFC 9068, Section 2.2: the client is always named.
func (is *issuer) checkAuthorizedParty(t *token, id *ca.Identity) *ca.Refusal {
	if is.Accept == AccessToken {
		client, err := t.client()
		if err != nil {
			return invalid(ca.ReasonAuthorizedParty, "%w", err)
		}
		if !slices.Contains(is.AuthorizedParties, client) {
			return invalid(ca.ReasonAuthorizedParty, "client %.200q is not an authorized party", client)
		}
		id.Token.AuthorizedParty = client
		return is.checkScopes(t)
	}
	v, present := t.claims["azp"]
	if !present {
		auds := id.Token.Audience
		if slices.ContainsFunc(auds, func(a string) bool { return a != auds[0] }) {
			return invalid(ca.ReasonAuthorizedParty, "several audiences but no azp")
		}
		return nil
	}
	azp, ok := v.(string)
	if !ok || !slices.Contains(is.AuthorizedParties, azp) {
		return invalid(ca.ReasonAuthorizedParty, "azp %.200q is not an authorized party", fmt.Sprint(v))
	}
	id.Token.AuthorizedParty = azp
	return nil
}

func (is *issuer) checkTimes(t *token, now time.Time, id *ca.Identity) *ca.Refusal {
	exp, err := numericDate(t.claims["exp"])
	if err != nil {
		return invalid(ca.ReasonExpMalformed, "exp: %w", err)
	}
	iat, err := numericDate(t.claims["iat"])
	if err != nil {
		return invalid(ca.ReasonIssuedAt, "iat: %w", err)
	}
	var nbf time.Time
	if v, present := t.claims["nbf"]; present {
		if nbf, err = numericDate(v); err != nil {
			return invalid(ca.ReasonNotBefore, "nbf: %w", err)
		}
	}
	usableUntil := exp.Add(is.ClockSkew)
	latest := now.Add(is.ClockSkew)
	switch {
	case !now.Before(usableUntil):
		return expired(exp, now)
	case iat.After(latest):
		return invalid(ca.ReasonIssuedAt, "token is from the future: iat %v, it is %v", iat.UTC(), now.UTC())
	case now.Sub(iat) > is.MaxTokenAge:
		return invalid(ca.ReasonIssuedAt, "token is older than %v: iat %v", is.MaxTokenAge, iat.UTC())
	case nbf.After(latest):
		return invalid(ca.ReasonNotBefore, "token is not valid before %v, it is %v", nbf.UTC(), now.UTC())
	case !exp.After(iat):
		return invalid(ca.ReasonLifetime, "exp %v is not after iat %v", exp.UTC(), iat.UTC())
	case exp.Sub(iat) > is.MaxTokenLifetime:
		return invalid(ca.ReasonLifetime, "token lives %v, limit %v", exp.Sub(iat), is.MaxTokenLifetime)
	}
	id.Token.Expires, id.Token.IssuedAt, id.Token.NotBefore = exp, iat, nbf
	id.Token.UsableUntil = usableUntil
	return nil
}

// expired: RFC 7519, Section 4.1.4: "the expiration time on or after which the
// JWT MUST NOT be accepted for processing".
func expired(exp, now time.Time) *ca.Refusal {
	return invalid(ca.ReasonExpired, "token expired at %v, it is %v", exp.UTC(), now.UTC())
}

func (t *token) checkChars() *ca.Refusal {
	for _, name := range identityClaims {
		if s, ok := t.claims[name].(string); ok && hasForbidden(s) {
			return invalid(ca.ReasonClaimChars, "%s is %.200q", name, s)
		}
	}
	return nil
}

// hasForbidden reports characters that change what a reader sees: controls,
// line and paragraph separators, bidirectional overrides, and the replacement
// character, which says that two names may have become one on the way.
func hasForbidden(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool {
		if r < utf8.RuneSelf {
			return r < ' ' || r == 0x7f
		}
		return r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
	})
}

func (t *token) checkSubject(id *ca.Identity) *ca.Refusal {
	sub, ok := t.claims["sub"].(string)
	switch {
	case !ok:
		return invalid(ca.ReasonSubject, "sub is missing or not a string")
	case strings.TrimSpace(sub) == "":
		return invalid(ca.ReasonSubject, "sub is blank")
	case len(sub) > maxSubjectBytes:
		// OpenID Connect Core says 255 ASCII characters; subjects of GitLab,
		// Jenkins and SPIRE are longer.
		return invalid(ca.ReasonSubject, "sub of %d bytes", len(sub))
	}
	// Limits remember subjects for longer than the token lives in memory, of
	// which this one is a part.
	id.Subject = strings.Clone(sub)
	return nil
}

// checkConstraints refuses tokens that mean less than they seem: someone else
// acting for the subject, or a bearer who still owes a proof.
func (t *token) checkConstraints() *ca.Refusal {
	// RFC 8693, Section 4.1 and 4.4; impersonator_id is Keycloak's.
	for _, name := range []string{"act", "may_act", "impersonator_id"} {
		if _, ok := t.claims[name]; ok {
			return invalid(ca.ReasonDelegated, "token has %s", name)
		}
	}
	// RFC 7800, Section 3.1: cnf names a key that the presenter must prove.
	if _, ok := t.claims["cnf"]; ok {
		return invalid(ca.ReasonPopRequired, "token has cnf")
	}
	return nil
}

func (is *issuer) checkEmail(t *token, id *ca.Identity) *ca.Refusal {
	email, ok := t.claims["email"].(string)
	if v := t.claims["email"]; !ok && v != nil {
		return invalid(ca.ReasonTokenMalformed, "email is a %T", v)
	}
	id.Email = strings.Clone(email)
	switch v := t.claims["email_verified"].(type) {
	case bool:
		id.EmailVerified = v
	case string:
		id.EmailVerified = is.EmailVerifiedString && v == "true"
	}
	// There is nothing to vouch for without an address.
	id.EmailVerified = id.EmailVerified && email != ""
	return nil
}

// numericDate reads a NumericDate (RFC 7519, Section 2): a JSON number of
// seconds, "non-integer values can be represented". Fractions are cut off.
func numericDate(v any) (time.Time, error) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, errors.New("missing or not a number")
	}
	sec, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil {
		f, err := n.Float64()
		if err != nil || f < 0 || f > maxNumericDate {
			return time.Time{}, errors.New("not a time")
		}
		sec = int64(f)
	}
	if sec < 0 || sec > maxNumericDate {
		return time.Time{}, errors.New("not a time")
	}
	return time.Unix(sec, 0), nil
}

// stringOrStrings reads aud: one string or an array of them, none empty.
func stringOrStrings(v any) ([]string, error) {
	var list []string
	switch v := v.(type) {
	case string:
		list = []string{v}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("member is not a string")
			}
			list = append(list, s)
		}
	default:
		return nil, errors.New("missing, or neither a string nor an array")
	}
	if len(list) == 0 || slices.Contains(list, "") {
		return nil, errors.New("empty")
	}
	return list, nil
}
