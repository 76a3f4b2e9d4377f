package stack

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
)

// tenanted is a site whose developers are certified by the authority "team", and
// everybody else by the default one.
func tenanted(t *testing.T) (*site, *site, *running) {
	s, team := newSite(t), newSite(t)
	team.makePKI("Team", x509.ExtKeyUsageCodeSigning)
	s.initLog()
	f := s.configure("127.0.0.1:1", "")
	for _, file := range []string{"chain.pem", "ca.key"} {
		s.write("team/"+file, team.read(file))
	}
	s.edit("    allow: all\n    san: email\n", `    rules:
      - {name: team, when: 'has(claims.team) && claims.email_verified == true', san: email(claims.email), authority: team}
      - {name: others, when: 'claims.email_verified == true', san: email(claims.email)}
`, "chains:\n", `authorities:
  - {name: team, hosts: [team.corp.example], path_prefix: /team}
chains:
  - {name: team, authority: team, certificates: team/chain.pem, key: {file: team/ca.key}}
`)
	f, err := config.Load(f.Path, nil)
	s.must(err)
	if problems := Check(f, time.Now()); len(problems) > 0 {
		t.Fatal(problems)
	}
	return s, team, s.start(f, Options{Listener: listen(t)})
}

// sendTo asks a host at a URL.
func (s *site) sendTo(host, method, url, token string, data []byte) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(string(data)))
	s.must(err)
	req.Host = host
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return send(s.t, req)
}

func TestAuthoritiesIssueAtTheirOwnAddresses(t *testing.T) {
	s, team, r := tenanted(t)
	member := s.token(func(c map[string]any) { c["team"] = "eng" })
	other := s.token(nil)
	for _, tc := range []struct {
		name, host, path, token string
		reason                  string // or
		issuer                  *site
	}{
		{"rule at the default address", "", "", member, "", team},
		{"other rule at the default address", "", "", other, "", s},
		{"by prefix", "", "/team", member, "", team},
		{"by host", "team.corp.example", "", member, "", team},
		{"by host with a port", "Team.Corp.Example:8443", "", member, "", team},
		{"other rule by prefix", "", "/team", other, "wrong_authority", nil},
		{"other rule by host", "team.corp.example", "", other, "wrong_authority", nil},
	} {
		t.Run(strings.ReplaceAll(tc.name, " ", "_"), func(t *testing.T) {
			a := s.sendTo(tc.host, http.MethodPost, r.url+tc.path+"/api/v2/signingCert", tc.token, body(t, newKey(t), "alice@corp.example"))
			if tc.issuer == nil {
				if code, _ := reason(t, a); a.status != http.StatusForbidden || code != tc.reason {
					t.Errorf("got %d %q, want 403 %q", a.status, code, tc.reason)
				}
				return
			}
			var v struct {
				SignedCertificateEmbeddedSct struct {
					Chain struct{ Certificates []string }
				}
			}
			if a.status != http.StatusOK || json.Unmarshal(a.body, &v) != nil {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
			tc.issuer.leaf(v.SignedCertificateEmbeddedSct.Chain.Certificates)
		})
	}
	if journal := s.journal(); !strings.Contains(journal, "wrong_authority") {
		t.Errorf("the refusals are not in the journal:\n%s", journal)
	}
}

func TestAuthorityWithoutChainsIsRefused(t *testing.T) {
	s := newSite(t)
	s.initLog()
	f := s.configure("127.0.0.1:1", "")
	s.edit("chains:\n", "authorities: [{name: team, path_prefix: /team}]\nchains:\n")
	f, err := config.Load(f.Path, nil)
	s.must(err)
	if problems := Check(f, time.Now()); !hasProblem(problems, "authorities[0]", "nothing at its address") {
		t.Errorf("got problems %v, want one at authorities[0]", problems)
	}
}

// Who trusts one authority must not be made to trust another.
func TestTrustFilesAreOfOneAuthority(t *testing.T) {
	s, team, r := tenanted(t)
	for _, tc := range []struct {
		host, prefix string
		root, not    *site
		url          string
	}{
		{"", "", s, team, "http://127.0.0.1:1"},
		{"", "/team", team, s, "http://team.corp.example:1"},
		{"team.corp.example", "", team, s, "http://team.corp.example:1"},
		{"elsewhere.corp.example", "", s, team, "http://127.0.0.1:1"},
	} {
		var root trustedRoot
		a := s.sendTo(tc.host, http.MethodGet, r.url+tc.prefix+"/trust/trusted_root.json", "", nil)
		if a.status != http.StatusOK || json.Unmarshal(a.body, &root) != nil || len(root.CertificateAuthorities) != 1 {
			t.Fatalf("%s%s: status %d: %s", tc.host, tc.prefix, a.status, a.body)
		}
		certs := root.CertificateAuthorities[0].CertChain.Certificates
		if last := certs[len(certs)-1].RawBytes; string(last) != string(tc.root.root.Raw) {
			t.Errorf("%s%s: got another root than that of its authority", tc.host, tc.prefix)
		}
		bundle := s.sendTo(tc.host, http.MethodGet, r.url+tc.prefix+"/api/v2/trustBundle", "", nil)
		if text := strings.ReplaceAll(string(bundle.body), `\n`, "\n"); !strings.Contains(text, pemOf(tc.root)) || strings.Contains(text, pemOf(tc.not)) {
			t.Errorf("%s%s: the trust bundle is not that of its authority alone: %s", tc.host, tc.prefix, text)
		}
		if a := s.sendTo(tc.host, http.MethodGet, r.url+tc.prefix+"/trust/signing_config.json", "", nil); !strings.Contains(string(a.body), tc.url+`"`) {
			t.Errorf("%s%s: the signing configuration does not name %s: %s", tc.host, tc.prefix, tc.url, a.body)
		}
	}
}

func pemOf(s *site) string {
	return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.root.Raw})))
}
