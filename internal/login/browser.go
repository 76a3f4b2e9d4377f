package login

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

// browser is the authorization code flow of a native app (RFC 8252) with PKCE
// (RFC 7636). PKCE is used whether or not the provider advertises it: AD FS and
// Entra do not, and do it; one that cannot ignores the parameters.
func (l *login) browser(ctx context.Context, pr *provider) (Token, error) {
	if _, err := endpoint.ParseURL(pr.authorize); err != nil {
		return Token{}, fmt.Errorf("authorization endpoint of the provider: %w", err)
	}
	state, nonce, verifier := random(), random(), random()
	cb, err := listen(ctx, l.Callback)
	if err != nil {
		return Token{}, fmt.Errorf("listening for the browser's return: %w", err)
	}
	defer cb.close()
	address := l.authorization(pr, cb.redirect, state, nonce, verifier)
	l.show(ctx, address)
	answer, err := cb.wait(ctx)
	if err != nil {
		return Token{}, fmt.Errorf("waiting for the browser: %w", err)
	}
	code, err := authorizationCode(answer, state, l.Issuer, pr.alwaysIssuer)
	if err != nil {
		return Token{}, fmt.Errorf("logging in by browser: %w", err)
	}
	want := l.expected()
	want.nonce = nonce
	t, err := l.redeem(ctx, pr, url.Values{
		"grant_type": {"authorization_code"}, "code": {code},
		"redirect_uri": {cb.redirect}, "code_verifier": {verifier},
	}, want)
	if err != nil {
		return Token{}, fmt.Errorf("exchanging the code for a token: %w", err)
	}
	return t, nil
}

// authorization makes the address of the provider's login page.
func (l *login) authorization(pr *provider, redirect, state, nonce, verifier string) string {
	q := url.Values{
		"response_type": {"code"}, "client_id": {l.ClientID}, "redirect_uri": {redirect},
		"scope": {strings.Join(l.Scopes, " ")}, "state": {state}, "nonce": {nonce},
		"code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"},
	}
	for name, value := range l.stepUp(pr) {
		q.Set(name, value)
	}
	separator := "?"
	if strings.Contains(pr.authorize, "?") {
		separator = "&"
	}
	return pr.authorize + separator + q.Encode()
}

// show opens the page, or says where it is. The address is no secret: it leads
// to a login, and what comes back is bound to this process by verifier and nonce.
func (l *login) show(ctx context.Context, address string) {
	if l.OpenBrowser != nil {
		l.say("Opening the browser. If nothing happens, open this address in it:\n\n  %s\n", address)
		if err := l.OpenBrowser(ctx, address); err != nil {
			l.say("The browser could not be opened: %v", err)
		}
		return
	}
	l.say("Open this address in a browser on this machine:\n\n  %s\n", address)
}

// authorizationCode takes the code out of an authorization response (RFC 6749,
// Section 4.1.2).
func authorizationCode(answer url.Values, state, issuer string, alwaysIssuer bool) (string, error) {
	// RFC 6749, Section 3.1: "Request and response parameters MUST NOT be
	// included more than once."
	for name, values := range answer {
		if len(values) != 1 {
			return "", fmt.Errorf("the answer has %s %d times", endpoint.Plain(name, 40), len(values))
		}
	}
	if !equal(answer.Get("state"), state) {
		return "", errors.New("the answer does not belong to this login (state); somebody else may have sent it. Start again")
	}
	// RFC 9207, Section 2.4: clients "MUST extract the value of the iss parameter
	// from authorization responses they receive if the parameter is present", and
	// "compare the result to the issuer identifier of the authorization server".
	// Where the server says that it sends it, an answer without is refused too.
	if iss, ok := answer["iss"]; ok && iss[0] != issuer {
		return "", fmt.Errorf("the answer comes from %s, not from %s", endpoint.Plain(iss[0], 200), issuer)
	} else if !ok && alwaysIssuer {
		return "", errors.New("the answer does not say which provider it comes from (iss), though this one always says so")
	}
	if code := answer.Get("error"); code != "" {
		return "", newOAuthError(code, answer.Get("error_description"))
	}
	if answer.Get("code") == "" {
		return "", errors.New("the answer has neither a code nor an error")
	}
	return answer.Get("code"), nil
}
