package login

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// inBubble runs a device login against a provider without a network, in a time
// of its own.
func inBubble(t *testing.T, change func(f *fake), check func(t *testing.T, f *fake, messages string, err error)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, issuer: "https://idp.example", now: time.Now}
		change(f)
		messages := new(lockedBuffer)
		cfg := f.config()
		cfg.Flow, cfg.Transport, cfg.Messages, cfg.Timeout = FlowDevice, direct{f}, messages, 2*time.Hour
		_, err := Acquire(t.Context(), cfg)
		check(t, f, messages.String(), err)
	})
}

// inTurn answers polls one after the other and then gives the token.
func inTurn(answers ...func(http.ResponseWriter) bool) func(http.ResponseWriter) bool {
	return func(w http.ResponseWriter) bool {
		if len(answers) == 0 {
			return false
		}
		next := answers[0]
		answers = answers[1:]
		return next(w)
	}
}

func oauth(code string) func(http.ResponseWriter) bool {
	return says(http.StatusBadRequest, `{"error":"`+code+`"}`)
}

// gaps returns the times between polls.
func gaps(f *fake, start time.Time) []time.Duration {
	var list []time.Duration
	for _, at := range f.polls {
		list = append(list, at.Sub(start))
		start = at
	}
	return list
}

func TestDevicePollingKeepsToTheIntervals(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		interval any
		answers  []func(http.ResponseWriter) bool
		want     []time.Duration
	}{
		"default":            {nil, []func(http.ResponseWriter) bool{oauth("authorization_pending")}, []time.Duration{5 * s, 5 * s}},
		"as told":            {2, []func(http.ResponseWriter) bool{oauth("authorization_pending")}, []time.Duration{2 * s, 2 * s}},
		"slower and slower":  {1, []func(http.ResponseWriter) bool{oauth("slow_down"), oauth("slow_down"), oauth("authorization_pending")}, []time.Duration{s, 6 * s, 11 * s, 11 * s}},
		"after a breakdown":  {3, []func(http.ResponseWriter) bool{says(503, ""), oauth("authorization_pending")}, []time.Duration{3 * s, 6 * s, 6 * s}},
		"nonsense: zero":     {0, nil, []time.Duration{5 * s}},
		"nonsense: negative": {-7, nil, []time.Duration{5 * s}},
		"nonsense: text":     {"1", nil, []time.Duration{5 * s}},
		"nonsense: a year":   {31536000, nil, []time.Duration{300 * s}},
	} {
		t.Run(name, func(t *testing.T) {
			var start time.Time
			inBubble(t, func(f *fake) {
				start = time.Now()
				f.grant = func(g claims) { g["interval"] = test.interval }
				f.answer = inTurn(test.answers...)
			}, func(t *testing.T, f *fake, _ string, err error) {
				if err != nil {
					t.Errorf("login: %v", err)
				}
				if got := gaps(f, start); !slices.Equal(got, test.want) {
					t.Errorf("interval %v: waited %v, want %v", test.interval, got, test.want)
				}
			})
		})
	}
}

func TestDeviceLoginEnds(t *testing.T) {
	for name, test := range map[string]struct {
		change func(f *fake)
		want   string
		polls  int
	}{
		"declined":          {func(f *fake) { f.answer = oauth("access_denied") }, "declined", 1},
		"expired there":     {func(f *fake) { f.answer = oauth("expired_token") }, "code has expired", 1},
		"expired here":      {func(f *fake) { f.grant, f.answer = life(12), oauth("authorization_pending") }, "code has expired", 2},
		"unknown error":     {func(f *fake) { f.answer = oauth("invalid_client") }, "invalid_client", 1},
		"client fault":      {func(f *fake) { f.answer = says(404, "") }, "status 404", 1},
		"no JSON":           {func(f *fake) { f.answer = says(200, "<html>") }, "not JSON", 1},
		"token of another":  {func(f *fake) { f.token = func(c claims) { c["aud"] = "other" } }, "not for the client", 1},
		"no device flow":    {func(f *fake) { f.discovery = func(d claims) { delete(d, "device_authorization_endpoint") } }, "no device flow", 0},
		"no lifetime":       {func(f *fake) { f.grant = life(0) }, "lifetime", 0},
		"code with escapes": {func(f *fake) { f.grant = func(g claims) { g["user_code"] = "A\x1b[2J" } }, "lacks a code", 0},
		"page in clear":     {func(f *fake) { f.grant = func(g claims) { g["verification_uri"] = "http://idp.example/" } }, "plain http", 0},
		"page is a script":  {func(f *fake) { f.grant = func(g claims) { g["verification_uri_complete"] = "javascript:x" } }, "login page", 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.change, func(t *testing.T, f *fake, _ string, err error) {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("login: error %v, want one that says %q", err, test.want)
				}
				if len(f.polls) != test.polls {
					t.Errorf("%d polls, want %d", len(f.polls), test.polls)
				}
			})
		})
	}
}

func life(seconds int) func(claims) { return func(g claims) { g["expires_in"] = seconds } }

func TestDeviceInstructionsShowTheCodeAndNoSecret(t *testing.T) {
	inBubble(t, func(*fake) {}, func(t *testing.T, f *fake, messages string, err error) {
		if err != nil {
			t.Fatalf("login: %v", err)
		}
		for _, part := range []string{"WDJB-MJHT", f.issuer + "/enter\n", f.issuer + "/enter?user_code=", "10m0s"} {
			if !strings.Contains(messages, part) {
				t.Errorf("the instructions lack %q:\n%s", part, messages)
			}
		}
		for _, secret := range []string{"device-1", f.redeemed[0].Get("code_verifier")} {
			if strings.Contains(messages, secret) {
				t.Errorf("the instructions hold the secret %q:\n%s", secret, messages)
			}
		}
		if f.device.Get("client_id") != "sigstore" || f.device.Get("scope") != "openid email" {
			t.Errorf("device request %v, want the client and its scopes", f.device)
		}
	})
}
