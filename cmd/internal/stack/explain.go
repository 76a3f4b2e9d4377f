package stack

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/policy"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Explanation is what an administrator is told about a token. It never holds
// the token.
type Explanation struct {
	// Verified says that the token's signature, issuer, audience and times were
	// checked, which takes the running service.
	Verified bool `json:"verified"`
	// TokenReason and TokenWhy say why the token itself was refused.
	TokenReason ca.Reason `json:"token_reason,omitempty"`
	TokenWhy    string    `json:"token_why,omitempty"`
	// Policy is what policy says; nil when the token was refused.
	Policy *policy.Explanation `json:"policy,omitempty"`
	// Frozen says why there is no certificate although policy lets the token pass.
	// It takes the running service; a frozen key is not seen, for there is no key.
	Frozen string `json:"frozen,omitempty"`
}

// Allowed reports that nothing that was looked at stands in the way.
func (e Explanation) Allowed() bool { return e.Policy != nil && e.Policy.Allowed && e.Frozen == "" }

// String tells it in words.
func (e Explanation) String() string {
	switch {
	case e.Policy == nil:
		return fmt.Sprintf("refused: %s\n%s\n", e.TokenReason, e.TokenWhy)
	case !e.Verified:
		return e.Policy.String() + "\nnote: signature, audience and times were not checked; the running service does with --online\n"
	case e.Frozen != "":
		return e.Policy.String() + "\nbut refused: " + e.Frozen + "\n"
	default:
		return e.Policy.String() + "\n"
	}
}

// Explain says what policy would decide about a token, or about claims as a JSON
// object, at the time now. It checks nothing else about the token.
func Explain(ctx context.Context, f *config.File, text []byte, now time.Time) (Explanation, error) {
	p := newPlan(ctx, f, planning{now: now, open: keys.OpenOffline})
	defer p.close()
	if p.policy == nil {
		return Explanation{}, p.sorted()
	}
	claims, err := claimsOf(text)
	if err != nil {
		return Explanation{}, err
	}
	var named struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(claims, &named); err != nil {
		return Explanation{}, errors.New("the token's claims are no JSON object")
	}
	i := slices.IndexFunc(p.issuers, func(is oidc.Issuer) bool {
		return is.URL == named.Issuer || slices.Contains(is.AcceptedIssuers, named.Issuer)
	})
	if i < 0 {
		return Explanation{TokenReason: ca.ReasonIssuerUnknown, TokenWhy: fmt.Sprintf("no issuer of the configuration has the URL %q", named.Issuer)}, nil
	}
	e, err := p.policy.ExplainCase(ctx, policy.Case{
		Issuer: p.issuers[i].Name, URL: p.issuers[i].URL, Claims: claims, At: now, EmailVerifiedString: p.issuers[i].EmailVerifiedString,
	})
	return Explanation{Policy: &e}, err
}

// claimsOf takes the payload out of a token; claims are left as they are.
func claimsOf(text []byte) ([]byte, error) {
	text = bytes.TrimSpace(text)
	if bytes.HasPrefix(text, []byte("{")) {
		return text, nil
	}
	parts := bytes.Split(text, []byte("."))
	if len(parts) != 3 {
		return nil, errors.New("neither a token of three parts nor a JSON object of claims")
	}
	claims, err := base64.RawURLEncoding.DecodeString(string(parts[1]))
	if err != nil {
		return nil, errors.New("the token's second part is not base64url")
	}
	return claims, nil
}

// explain answers the administrators' POST /v1/explain: the token goes through
// the very checks of an issuance and then to policy. It is not used up by that.
func (s *Stack) explain(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		s.adminAnswer(w, http.StatusBadRequest, adminError{"the request is no JSON object with a token"})
		return
	}
	n := s.current.Load()
	id, err := n.verifier.Verify(r.Context(), asked.Token)
	if err != nil {
		refusal := ca.AsRefusal(err)
		s.adminAnswer(w, http.StatusOK, Explanation{Verified: true, TokenReason: refusal.Reason, TokenWhy: refusal.Error()})
		return
	}
	n.verifier.Refund(id)
	req := ca.Request{Identity: id, Time: s.options.Clock(), API: "admin"}
	e := n.policy.Explain(r.Context(), req)
	answer := Explanation{Verified: true, Policy: &e}
	if _, err := s.frozen.Guard(n.policy.Decide)(r.Context(), req); err != nil && ca.AsRefusal(err).Reason == ca.ReasonFrozen {
		answer.Frozen = ca.AsRefusal(err).Error()
	}
	s.adminAnswer(w, http.StatusOK, answer)
}
