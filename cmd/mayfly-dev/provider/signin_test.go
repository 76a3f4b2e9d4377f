package provider

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// tamper is a transport that changes answers on their way to a client.
type tamper func(path string, h http.Header, body []byte) []byte

func (f tamper) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	body = f(r.URL.Path, resp.Header, body)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

func TestSignInRefusesAnswersToAnotherSignIn(t *testing.T) {
	p := serve(t, nil)
	other, err := p.SignIn(t.Context(), nil, alice)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change tamper
		want   string
	}{
		"issuer of another": {func(path string, _ http.Header, body []byte) []byte {
			if path != discoveryPath {
				return body
			}
			return bytes.Replace(body, []byte(`"issuer":"`), []byte(`"issuer":"x`), 1)
		}, "discovery document is of issuer"},
		"state of another": {func(path string, h http.Header, body []byte) []byte {
			if path == callbackPath {
				h.Set("Location", strings.Replace(h.Get("Location"), "state=", "state=x", 1))
			}
			return body
		}, "another request's state"},
		"token of another": {func(path string, _ http.Header, body []byte) []byte {
			if path != exchangePath {
				return body
			}
			return []byte(`{"id_token":"` + other + `"}`)
		}, "nonce is of another sign-in"},
		"no token": {func(path string, _ http.Header, body []byte) []byte {
			if path != exchangePath {
				return body
			}
			return []byte(`{}`)
		}, "redeeming the code"},
		"refusal": {func(path string, h http.Header, body []byte) []byte {
			if path == callbackPath {
				h.Set("Location", signInRedirect+"?error=access_denied")
			}
			return body
		}, "login was refused: access_denied"},
		"page without a form": {func(path string, _ http.Header, body []byte) []byte {
			if path != loginPath {
				return body
			}
			return []byte("<p>nothing here")
		}, `no form "sign-in"`},
	} {
		token, err := p.SignIn(t.Context(), &http.Client{Transport: c.change}, alice)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got token %q and error %v, want an error with %q", name, token, err, c.want)
		}
	}
}
