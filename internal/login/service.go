package login

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

// accepted is an issuer that the service takes tokens of.
type accepted struct{ issuer, audience string }

// ask reads GET /api/v2/configuration of the service, which Fulcio has too.
func (l *login) ask(ctx context.Context) ([]accepted, error) {
	a, err := l.http.Get(ctx, strings.TrimSuffix(l.Server, "/")+"/api/v2/configuration", nil)
	if err != nil {
		return nil, err
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("status %d", a.Status)
	}
	doc, err := endpoint.Object(a.Body)
	if err != nil {
		return nil, err
	}
	list, _ := doc["issuers"].([]any)
	var services []accepted
	for _, v := range list {
		entry, _ := v.(map[string]any)
		// An issuer that is a pattern says nothing about where to log in.
		if s := (accepted{endpoint.Text(entry, "issuerUrl"), endpoint.Text(entry, "audience")}); s.issuer != "" {
			services = append(services, s)
		}
	}
	if len(services) == 0 {
		return nil, errors.New("the answer names no issuer")
	}
	return services, nil
}

// chooseIssuer settles issuer and audience before a login.
func (l *login) chooseIssuer() error {
	switch {
	case l.Issuer == "" && l.services == nil:
		return errors.New("which provider? Give --issuer, or --server for the service that knows it")
	case l.Issuer == "" && len(l.services) > 1:
		return fmt.Errorf("%s accepts several issuers; choose one with --issuer: %s", l.Server, issuers(l.services))
	case l.Issuer == "":
		l.Issuer = l.services[0].issuer
	}
	return l.serve(l.Issuer)
}

// serve checks that the service takes tokens of this issuer, and learns for
// which audience.
func (l *login) serve(issuer string) error {
	if l.services == nil {
		return nil
	}
	i := slices.IndexFunc(l.services, func(s accepted) bool { return s.issuer == issuer })
	if i < 0 {
		return fmt.Errorf("%s does not accept tokens of %s, only of: %s", l.Server, endpoint.Plain(issuer, 200), issuers(l.services))
	}
	if _, err := endpoint.ParseURL(issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if l.Audience == "" {
		l.Audience = l.services[i].audience
	}
	return nil
}

// ambientAudience is what a CI provider is asked for. Its issuer is known only
// afterwards, so that the audience must not hang on it.
func (l *login) ambientAudience() (string, error) {
	if l.Audience != "" {
		return l.Audience, nil
	}
	var found []string
	for _, s := range l.services {
		if (l.Issuer == "" || s.issuer == l.Issuer) && s.audience != "" && !slices.Contains(found, s.audience) {
			found = append(found, s.audience)
		}
	}
	switch len(found) {
	case 0:
		return DefaultClientID, nil
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%s wants another audience for each issuer (%s); give --issuer or --audience", l.Server, plainList(found))
}

func issuers(services []accepted) string {
	var list []string
	for _, s := range services {
		list = append(list, endpoint.Plain(s.issuer, 200))
	}
	return strings.Join(list, ", ")
}
