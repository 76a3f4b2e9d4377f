package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/probe"
)

const testKey = `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"` // RFC 7515, A.3.1

// serveIssuer answers as the issuer at every URL, and with these keys. It is a
// transport too, so that an issuer can have any name.
type serveIssuer struct{ issuer, keys string }

func (s serveIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/certs") {
		_, _ = w.Write([]byte(`{"keys":[` + s.keys + `]}`))
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"issuer": s.issuer, "jwks_uri": s.issuer + "/certs"})
}

func (s serveIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result(), nil
}

// TestProposedConfigurationIsValid for every kind of provider, names included
// that YAML would read otherwise.
func TestProposedConfigurationIsValid(t *testing.T) {
	for _, test := range []struct{ url, preset string }{
		{"https://keycloak.corp.example/realms/eng", "keycloak"},
		{"https://keycloak.corp.example/auth/realms/a'b%20c", "keycloak"},
		{"https://adfs.corp.example/adfs", "adfs"},
		{"https://login.microsoftonline.com/2f7c0b0e-0000-4000-8000-000000000001/v2.0", "entra"},
		{"https://sts.windows.net/2f7c0b0e-0000-4000-8000-000000000001/", "entra"},
		{"https://gitlab.corp.example", "gitlab"},
		{"https://token.actions.githubusercontent.com", "github"},
		{"https://ghes.corp.example/_services/token", "github"},
		{"https://jenkins.corp.example/oidc", "jenkins"},
		{"https://jenkins.corp.example/oidc/job/team", "jenkins"},
		{"https://kubernetes.default.svc.cluster.local", "kubernetes"},
		{"https://10.0.0.1:8443/x", ""},
		{"https://idp", ""},
		{"https://here.corp.example", ""}, // with allow_loopback
		{"https://IDP.Corp.Example:443/a:b", ""},
	} {
		r, err := probe.Run(t.Context(), probe.Config{
			URL: test.url, Transport: serveIssuer{test.url, testKey + "}"},
			Resolve: func(_ context.Context, host string) ([]string, error) {
				if host == "here.corp.example" {
					return []string{"127.0.0.53", "::1"}, nil
				}
				return []string{"10.0.0.1"}, nil
			},
		})
		if err != nil {
			t.Fatalf("%s: %v", test.url, err)
		}
		var text strings.Builder
		if err := r.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		_, block, ok := strings.Cut(text.String(), "\nissuers:\n")
		if !ok {
			t.Errorf("%s: no block in\n%s", test.url, &text)
			continue
		}
		file := filepath.Join(t.TempDir(), "mayfly.yaml")
		if err := os.WriteFile(file, []byte("issuers:\n"+block+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := config.Load(file, pflag.NewFlagSet("", pflag.ContinueOnError))
		if err != nil {
			t.Errorf("%s: %v\n%s", test.url, err, block)
			continue
		}
		if is := f.Issuers[0]; is.URL != test.url || is.Preset != test.preset && test.preset != "" || !slices.Equal(is.Algorithms, []string{"ES256"}) {
			t.Errorf("%s: read as %+v, want preset %q, ES256\n%s", test.url, is, test.preset, block)
		}
	}
}

const rest = `
listen: {address: "127.0.0.1:0", plaintext: true}
public_url: http://127.0.0.1:8443
state: state
chains: [{name: corp, certificates: chain.pem, key: {file: ca.key}}]
logs: disabled
`

// TestProbeAgreesWithTheService: a key set that the probe calls usable is one that
// the service uses, and the other way round.
func TestProbeAgreesWithTheService(t *testing.T) {
	for name, test := range map[string]struct {
		keys   string
		usable bool
	}{
		"sound":             {testKey + `,"kid":"1"}`, true},
		"without kid":       {testKey + `}`, true},
		"other use":         {testKey + `,"use":"enc"}`, false},
		"other operations":  {testKey + `,"key_ops":["sign"]}`, false},
		"other algorithm":   {testKey + `,"alg":"ES384"}`, false},
		"foreign algorithm": {testKey + `,"alg":"ECDH-ES"}`, false},
		"unknown neighbour": {testKey + `},{"kty":"AKP"},7,null`, true},
		"x5c is nonsense":   {testKey + `,"x5c":["x"]}`, true},
		"kid is a number":   {testKey + `,"kid":7}`, false},
		"kid is empty":      {testKey + `,"kid":""}`, false},
		"kid of controls":   {testKey + `,"kid":"a\u0007"}`, false},
		"alg is a list":     {testKey + `,"alg":["ES256"]}`, false},
		"member twice":      {testKey + `,"kid":"a","kid":"b"}`, false},
		"off the curve":     {strings.Replace(testKey, `"x":"f`, `"x":"g`, 1) + `}`, false},
		"padded":            {strings.Replace(testKey, `EU"`, `EU="`, 1) + `}`, false},
		"none":              {``, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &serveIssuer{keys: test.keys}
			server := httptest.NewServer(s)
			defer server.Close()
			s.issuer = server.URL
			r, err := probe.Run(t.Context(), probe.Config{URL: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			alone := r.Usable()
			r.Findings, r.Entry.Algorithms = nil, []string{"ES256"}
			rehearse(t.Context(), r, nil)
			if alone != test.usable || r.Usable() != test.usable {
				t.Errorf("keys %s: usable for the probe %v, for the service %v (%v); want %v", test.keys, alone, r.Usable(), r.Findings, test.usable)
			}
		})
	}
}
