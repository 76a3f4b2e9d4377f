package login

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

// kubernetesTokenFile is where Tekton's and other workloads have a projected
// service account token; cosign looks there as well.
var kubernetesTokenFile = "/var/run/sigstore/cosign/oidc-token" //nolint:gosec // a path, not a credential

// source is a place that ambient tokens come from.
type source struct {
	name string
	// detected says that the login runs there.
	detected func(l *login) bool
	fetch    func(ctx context.Context, l *login, audience string) (raw string, err error)
}

// sources are tried in this order: what somebody has put there on purpose comes
// before what a platform always has.
var sources = []source{
	{"--token-file", func(l *login) bool { return l.TokenFile != "" }, func(_ context.Context, l *login, _ string) (string, error) {
		return readToken(l.TokenFile)
	}},
	// An empty variable is none: pipelines define it for all their jobs.
	{"SIGSTORE_ID_TOKEN", has("SIGSTORE_ID_TOKEN"), func(_ context.Context, l *login, _ string) (string, error) {
		return strings.TrimSpace(l.Getenv("SIGSTORE_ID_TOKEN")), nil
	}},
	{"GitHub Actions", has("ACTIONS_ID_TOKEN_REQUEST_URL", "GITHUB_ACTIONS"), gitHub},
	{"Buildkite", has("BUILDKITE_AGENT_ACCESS_TOKEN", "BUILDKITE"), buildkite},
	{"Azure DevOps", has("SYSTEM_OIDCREQUESTURI"), azureDevOps},
	{"ID_TOKEN_FILE", has("ID_TOKEN_FILE"), func(_ context.Context, l *login, _ string) (string, error) {
		return readToken(l.Getenv("ID_TOKEN_FILE"))
	}},
	{"Kubernetes", func(*login) bool { return exists(kubernetesTokenFile) }, func(context.Context, *login, string) (string, error) {
		return readToken(kubernetesTokenFile)
	}},
	// Where a job must be told to have a token, and was not.
	{"GitLab CI", has("GITLAB_CI"), missing("add  id_tokens: {SIGSTORE_ID_TOKEN: {aud: sigstore}}  to the job")},
	{"Jenkins", has("JENKINS_URL"), missing("bind an \"OpenID Connect id token as file\" credential to the variable ID_TOKEN_FILE")},
	{"a CI job", func(l *login) bool { v := l.Getenv("CI"); return v != "" && v != "false" }, missing(
		"put its token into SIGSTORE_ID_TOKEN, name its file with --token-file, or say --flow browser or device if this is a person")},
}

func has(variables ...string) func(*login) bool {
	return func(l *login) bool {
		for _, v := range variables {
			if strings.TrimSpace(l.Getenv(v)) != "" {
				return true
			}
		}
		return false
	}
}

func missing(remedy string) func(context.Context, *login, string) (string, error) {
	return func(context.Context, *login, string) (string, error) {
		return "", errors.New("it gives this job no token; " + remedy)
	}
}

// detect returns the first source that is there, or nil.
func (l *login) detect() (*source, error) {
	for i := range sources {
		if !sources[i].detected(l) {
			continue
		}
		if l.MaxAge != 0 || len(l.ACR) > 0 {
			return nil, fmt.Errorf("%s was detected, and nobody is there to authenticate anew: leave out --max-age and --acr, "+
				"or say --flow browser or device", sources[i].name)
		}
		return &sources[i], nil
	}
	return nil, nil
}

// ambient takes the token of a source that was detected. Whatever fails from
// here on is an error, and never a reason to ask someone else.
func (l *login) ambient(ctx context.Context, s source) (Token, error) {
	audience, err := l.ambientAudience()
	if err != nil {
		return Token{}, err
	}
	l.say("mayfly: using the token of %s", s.name)
	raw, err := s.fetch(ctx, l, audience)
	if err != nil {
		return Token{}, fmt.Errorf("getting the token of %s: %w", s.name, err)
	}
	t, err := parseToken(raw)
	if err != nil {
		return Token{}, fmt.Errorf("the token of %s: %w", s.name, err)
	}
	if err := l.serve(t.Issuer()); err != nil {
		return Token{}, err
	}
	if err := t.check(expected{issuer: l.Issuer, audience: l.Audience}, l.Clock()); err != nil {
		return Token{}, fmt.Errorf("the token of %s: %w", s.name, err)
	}
	return t, nil
}

// gitHub asks the runner's token service, on github.com and GHES alike.
func gitHub(ctx context.Context, l *login, audience string) (string, error) {
	address, bearer := l.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), l.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address == "" || bearer == "" {
		return "", errors.New("the job may not ask for one: add  permissions: {id-token: write}  to it; pull requests from forks have none at all")
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not a URL")
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	return l.request(ctx, "value", bearer, func(ctx context.Context, h http.Header) (*endpoint.Answer, error) {
		return l.http.Get(ctx, u.String(), h)
	})
}

func buildkite(ctx context.Context, l *login, audience string) (string, error) {
	bearer, job := l.Getenv("BUILDKITE_AGENT_ACCESS_TOKEN"), l.Getenv("BUILDKITE_JOB_ID")
	base := l.Getenv("BUILDKITE_AGENT_ENDPOINT")
	if base == "" {
		base = "https://agent.buildkite.com/v3"
	}
	if bearer == "" || job == "" {
		return "", errors.New("BUILDKITE_AGENT_ACCESS_TOKEN or BUILDKITE_JOB_ID is empty; does a container hide them?")
	}
	address := strings.TrimSuffix(base, "/") + "/jobs/" + url.PathEscape(job) + "/oidc/tokens"
	return l.request(ctx, "token", bearer, func(ctx context.Context, h http.Header) (*endpoint.Answer, error) {
		h.Set("Authorization", "Token "+bearer)
		return l.http.PostForm(ctx, address, url.Values{"audience": {audience}}, h)
	})
}

// azureDevOps gives tokens of one fixed audience, of a service connection.
func azureDevOps(ctx context.Context, l *login, _ string) (string, error) {
	bearer, connection := l.Getenv("SYSTEM_ACCESSTOKEN"), l.Getenv("AZURESUBSCRIPTION_SERVICE_CONNECTION_ID")
	if bearer == "" {
		return "", errors.New("SYSTEM_ACCESSTOKEN is empty: map it in the step,  env: {SYSTEM_ACCESSTOKEN: $(System.AccessToken)}")
	}
	if connection == "" {
		return "", errors.New("AZURESUBSCRIPTION_SERVICE_CONNECTION_ID is empty: run in an AzureCLI task, or set it to the service connection's id")
	}
	q := url.Values{"api-version": {"7.1"}, "serviceConnectionId": {connection}}
	address := l.Getenv("SYSTEM_OIDCREQUESTURI") + "?" + q.Encode()
	return l.request(ctx, "oidcToken", bearer, func(ctx context.Context, h http.Header) (*endpoint.Answer, error) {
		h.Set("X-TFS-FedAuthRedirect", "Suppress") // else a login page, with status 203
		return l.http.PostForm(ctx, address, url.Values{}, h)
	})
}

// attempts are made because token services of CI providers fail now and then,
// and a job cannot be asked to try again.
const attempts = 3

// request returns a member of what a token service answers. The bearer token
// goes to the address that came with it, and no redirect takes it elsewhere.
func (l *login) request(ctx context.Context, member, bearer string,
	ask func(context.Context, http.Header) (*endpoint.Answer, error),
) (string, error) {
	for attempt := 1; ; attempt++ {
		a, err := ask(ctx, http.Header{"Authorization": {"Bearer " + bearer}})
		if err == nil && a.Status != http.StatusOK && a.Status != http.StatusCreated {
			err = fmt.Errorf("its token service: %w", &statusError{a.Status})
		}
		if err == nil {
			doc, err := endpoint.Object(a.Body)
			if raw := endpoint.Text(doc, member); err == nil && raw != "" {
				return raw, nil
			}
			return "", errors.New("its token service answered without a token")
		}
		if attempt == attempts || !temporary(err) {
			return "", err
		}
		if err := pause(ctx, time.Duration(attempt)*time.Second); err != nil {
			return "", err
		}
	}
}

// temporary reports that the same request may succeed later.
func temporary(err error) bool {
	if status, ok := errors.AsType[*statusError](err); ok {
		return status.status >= 500 || status.status == http.StatusTooManyRequests
	}
	return errors.Is(err, endpoint.ErrUnreachable)
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// readToken reads a file that holds one token. It is read anew each time:
// Kubernetes replaces it.
func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	b, err := io.ReadAll(io.LimitReader(f, maxTokenBytes+2))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return "", fmt.Errorf("%s is empty", file)
	}
	return string(b), nil
}
