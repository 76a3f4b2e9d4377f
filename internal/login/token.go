package login

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

const (
	maxTokenBytes = 64 << 10
	// skew is the allowance between the provider's clock and this one.
	skew = 30 * time.Second
	// shortLife is when a warning is due: an image may take as long to push.
	shortLife = 30 * time.Second
)

// Token is an ID token that was checked as far as its reader can: its claims are
// what was asked for. Its signature is the service's business, for only the
// service acts on it. It shows its claims, and itself only when Raw is called.
type Token struct {
	raw    string
	claims map[string]any
}

// Raw returns the token itself.
func (t Token) Raw() string { return t.raw }

// String keeps the token out of texts that someone makes of it.
func (t Token) String() string { return "ID token (not shown)" }

// GoString does the same for %#v.
func (t Token) GoString() string { return t.String() }

// LogValue does the same for logs.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Issuer returns the iss claim.
func (t Token) Issuer() string { return endpoint.Text(t.claims, "iss") }

// Subject returns the sub claim.
func (t Token) Subject() string { return endpoint.Text(t.claims, "sub") }

// Email returns the email claim, empty if there is none.
func (t Token) Email() string { return endpoint.Text(t.claims, "email") }

// Audience returns the aud claim.
func (t Token) Audience() []string {
	list, _ := endpoint.Texts(t.claims, "aud")
	return list
}

// Expiry returns the exp claim.
func (t Token) Expiry() time.Time {
	at, _ := t.time("exp")
	return at
}

// time reads a NumericDate (RFC 7519, Section 2).
func (t Token) time(name string) (time.Time, bool) {
	n, ok := t.claims[name].(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := n.Float64()
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(math.Floor(seconds)), 0), true
}

// parseToken reads a token without verifying it.
func parseToken(raw string) (Token, error) {
	if raw == "" || len(raw) > maxTokenBytes {
		return Token{}, fmt.Errorf("the token has %d bytes, not between 1 and %d", len(raw), maxTokenBytes)
	}
	// Go's decoder of base64 skips line ends, and the token may end up in a shell
	// command: "e30.eA\nreboot" is three parts too.
	if strings.ContainsFunc(raw, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) {
		return Token{}, errors.New("this is not an ID token: it holds characters that no JWT has")
	}
	parts := strings.Split(raw, ".")
	if len(parts) == 5 {
		return Token{}, errors.New("the token is encrypted (JWE); switch ID token encryption off for this client at the provider")
	}
	if len(parts) != 3 || parts[2] == "" {
		return Token{}, errors.New("this is not an ID token: a JWT has three parts with dots between them")
	}
	header, err := part(parts[0])
	if err != nil {
		return Token{}, fmt.Errorf("reading the token's header: %w", err)
	}
	if alg := endpoint.Text(header, "alg"); alg == "" || strings.EqualFold(alg, "none") || strings.HasPrefix(alg, "HS") {
		return Token{}, fmt.Errorf("the token is signed with %q, which others cannot verify", endpoint.Plain(alg, 20))
	}
	claims, err := part(parts[1])
	if err != nil {
		return Token{}, fmt.Errorf("reading the token's claims: %w", err)
	}
	if _, err := base64.RawURLEncoding.Strict().DecodeString(parts[2]); err != nil {
		return Token{}, errors.New("the token's signature is not base64url")
	}
	t := Token{raw: raw, claims: claims}
	switch {
	case t.Issuer() == "":
		return Token{}, errors.New("the token has no issuer (iss)")
	case t.Subject() == "":
		return Token{}, errors.New("the token has no subject (sub)")
	case len(t.Audience()) == 0:
		return Token{}, errors.New("the token has no audience (aud)")
	case t.Expiry().IsZero():
		return Token{}, errors.New("the token has no expiry (exp)")
	}
	return t, nil
}

func part(s string) (map[string]any, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errors.New("not base64url")
	}
	return endpoint.Object(b)
}

// expected is what a token must say. Empty fields are not looked at.
type expected struct {
	issuer   string
	clientID string
	audience string
	nonce    string
	acr      []string
	maxAge   time.Duration
}

// check follows OpenID Connect Core, Section 3.1.3.7. The token came from the
// token endpoint over TLS, so that "the TLS server validation MAY be used to
// validate the issuer in place of checking the token signature", or it was
// given by the environment and its reader is the service.
func (t Token) check(want expected, now time.Time) error {
	switch {
	case want.issuer != "" && t.Issuer() != want.issuer:
		return fmt.Errorf("the token is of issuer %s, want %s", endpoint.Plain(t.Issuer(), 200), want.issuer)
	case want.nonce != "" && endpoint.Text(t.claims, "nonce") != want.nonce:
		return errors.New("the token was not made for this login: it has another nonce, or none")
	case want.clientID != "" && !slices.Contains(t.Audience(), want.clientID):
		return fmt.Errorf("the token is for %s, not for the client %s", plainList(t.Audience()), want.clientID)
	case want.audience != "" && !slices.Contains(t.Audience(), want.audience):
		return fmt.Errorf("the token is for %s, but the audience %s is wanted: name another --client-id, "+
			"let the provider add the audience (in Keycloak, an audience mapper with \"Add to ID token\"), or give --audience",
			plainList(t.Audience()), want.audience)
	case !now.Before(t.Expiry()):
		return fmt.Errorf("the token expired at %s", t.Expiry().UTC().Format(time.RFC3339))
	}
	// The service looks at azp as well; better to hear it here.
	if azp, ok := t.claims["azp"]; ok && want.clientID != "" && azp != want.clientID {
		return fmt.Errorf("the token was made for the client %s, not for %s", endpoint.Plain(fmt.Sprint(azp), 200), want.clientID)
	}
	if at, ok := t.time("iat"); ok && at.After(now.Add(5*time.Minute)) {
		return fmt.Errorf("the token was issued at %s, which is in the future; one of the clocks is wrong", at.UTC().Format(time.RFC3339))
	}
	return t.checkStepUp(want, now)
}

// checkStepUp: what is asked for by acr_values and max_age stands in a URL that
// the user can edit, and providers may ignore it.
func (t Token) checkStepUp(want expected, now time.Time) error {
	if acr := endpoint.Text(t.claims, "acr"); len(want.acr) > 0 && !slices.Contains(want.acr, acr) {
		return fmt.Errorf("the provider authenticated with acr %q, want %s; "+
			"the provider may not support the level, or not for this client", endpoint.Plain(acr, 100), plainList(want.acr))
	}
	if want.maxAge == 0 {
		return nil
	}
	// OpenID Connect Core, Section 2: "When a max_age request is made [...] then
	// this Claim is REQUIRED".
	at, ok := t.time("auth_time")
	if !ok {
		return errors.New("the token does not say when the user authenticated (auth_time), so --max-age cannot be checked; " +
			"let the provider add the claim")
	}
	if age := now.Sub(at); age > want.maxAge+skew {
		return fmt.Errorf("the user authenticated %s ago, more than %s; the provider has ignored max_age",
			age.Round(time.Second), want.maxAge)
	}
	return nil
}

// facts lists what people want to know of a token before they use it.
func (t Token) facts(now time.Time) []string {
	left := t.Expiry().Sub(now).Round(time.Second)
	facts := []string{
		"  issuer    " + endpoint.Plain(t.Issuer(), 200),
		"  subject   " + endpoint.Plain(t.Subject(), 200),
		"  audience  " + plainList(t.Audience()),
		fmt.Sprintf("  expires   %s, in %s", t.Expiry().UTC().Format(time.RFC3339), left),
	}
	if mail := t.Email(); mail != "" {
		facts = slices.Insert(facts, 2, "  email     "+endpoint.Plain(mail, 200))
	}
	if left < shortLife {
		facts = append(facts, "warning: the token expires very soon; sign at once, or ask for a new one just before")
	}
	// Sigstore's clients look at the claim before they ask any service.
	if t.Email() != "" && t.claims["email_verified"] != true {
		facts = append(facts, "warning: the token has an email that is not marked as verified (email_verified); "+
			"cosign and npm refuse such tokens. Let the provider mark it, or leave the email out")
	}
	return facts
}

func plainList(list []string) string {
	return endpoint.Plain(strings.Join(list, ", "), 300)
}
