package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

const (
	// RFC 8628, Section 3.2: "If no value is provided, clients MUST use 5 as
	// the default."
	defaultInterval = 5 * time.Second
	maxInterval     = 5 * time.Minute
	maxDeviceLife   = time.Hour
)

// device is the device authorization grant (RFC 8628). PKCE goes along, as
// other Sigstore clients do it: providers that demand it of a client demand it
// here too.
func (l *login) device(ctx context.Context, pr *provider) (Token, error) {
	if pr.device == "" {
		return Token{}, errors.New("the provider has no device flow; use --flow browser, or switch it on for this client at the provider")
	}
	verifier := random()
	form := url.Values{
		"scope": {strings.Join(l.Scopes, " ")}, "code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"},
	}
	for name, value := range l.stepUp(pr) {
		form.Set(name, value)
	}
	answer, err := l.post(ctx, pr, pr.device, form)
	if err != nil {
		return Token{}, fmt.Errorf("asking for a device code: %w", err)
	}
	g, err := readGrant(answer)
	if err != nil {
		return Token{}, fmt.Errorf("asking for a device code: %w", err)
	}
	l.say("%s", g.instructions())
	t, err := l.poll(ctx, pr, g, verifier)
	if err != nil {
		return Token{}, fmt.Errorf("waiting for the login on the other device: %w", err)
	}
	return t, nil
}

// grant is a device authorization response (RFC 8628, Section 3.2).
type grant struct {
	deviceCode, userCode string
	page, completePage   string
	life, interval       time.Duration
}

func readGrant(answer map[string]any) (grant, error) {
	g := grant{
		deviceCode: endpoint.Text(answer, "device_code"),
		userCode:   endpoint.Text(answer, "user_code"),
		page:       endpoint.Text(answer, "verification_uri"),
		life:       seconds(answer["expires_in"], maxDeviceLife),
		interval:   min(seconds(answer["interval"], maxInterval), maxInterval),
	}
	if g.page == "" {
		g.page = endpoint.Text(answer, "verification_url") // Google's name for it
	}
	if g.interval == 0 {
		g.interval = defaultInterval
	}
	if g.deviceCode == "" || g.userCode == "" || g.userCode != endpoint.Plain(g.userCode, 40) || g.life == 0 {
		return grant{}, errors.New("the provider's answer lacks a code or its lifetime")
	}
	if _, err := endpoint.ParseURL(g.page); err != nil {
		return grant{}, fmt.Errorf("the provider's login page: %w", err)
	}
	if complete := endpoint.Text(answer, "verification_uri_complete"); complete != "" {
		if _, err := endpoint.ParseURL(complete); err != nil {
			return grant{}, fmt.Errorf("the provider's login page: %w", err)
		}
		g.completePage = complete
	}
	return g, nil
}

// seconds reads a number of seconds, at most limit; zero when it is none.
func seconds(v any, limit time.Duration) time.Duration {
	n, _ := v.(json.Number)
	f, err := n.Float64()
	if err != nil || f <= 0 {
		return 0
	}
	return time.Duration(min(f, limit.Seconds()) * float64(time.Second))
}

// instructions show the code in any case: RFC 8628, Section 3.3.1, recommends
// that users confirm it, because whoever sends them another link would log in
// with their identity.
func (g grant) instructions() string {
	text := fmt.Sprintf("On any device, open\n\n  %s\n\nand enter the code  %s", g.page, g.userCode)
	if g.completePage != "" {
		text += fmt.Sprintf("\nor open\n\n  %s\n\nand check that it shows this code.", g.completePage)
	}
	return text + fmt.Sprintf("\nThe code is good for %s. Only enter codes that you asked for yourself.", g.life.Round(time.Second))
}

// poll asks until the user has decided (RFC 8628, Sections 3.4 and 3.5).
func (l *login) poll(ctx context.Context, pr *provider, g grant, verifier string) (Token, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, g.life, errors.New("the code has expired; start again"))
	defer cancel()
	form := url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:device_code"},
		"device_code":   {g.deviceCode},
		"code_verifier": {verifier},
	}
	for {
		if err := pause(ctx, g.interval); err != nil {
			return Token{}, err
		}
		t, err := l.redeem(ctx, pr, form, l.expected())
		if err == nil {
			return t, nil
		}
		if ctx.Err() != nil {
			return Token{}, context.Cause(ctx)
		}
		if g.interval, err = nextInterval(g.interval, err); err != nil {
			return Token{}, err
		}
	}
}

// nextInterval says how long to wait after a poll that gave no token, or returns
// the error that ends the polling.
func nextInterval(interval time.Duration, err error) (time.Duration, error) {
	if refused, ok := errors.AsType[*oauthError](err); ok {
		switch refused.code {
		case "authorization_pending":
			return interval, nil
		case "slow_down":
			// RFC 8628, Section 3.5: "the interval MUST be increased by 5
			// seconds for this and all subsequent requests".
			return min(interval+5*time.Second, maxInterval), nil
		case "access_denied":
			return 0, fmt.Errorf("the login was declined there: %w", err)
		case "expired_token":
			return 0, fmt.Errorf("the code has expired; start again: %w", err)
		}
		return 0, err
	}
	// RFC 8628, Section 3.5: "On encountering a connection timeout, clients MUST
	// unilaterally reduce their polling frequency before retrying", best
	// "exponential backoff".
	if temporary(err) {
		return min(2*interval, maxInterval), nil
	}
	return 0, err
}

// pause waits, or returns why it should not.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
