package stack

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
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

// crossSign writes a path from the site's issuing key to another root.
func (s *site) crossSign(name string) *x509.Certificate {
	s.t.Helper()
	block, _ := pem.Decode(s.read("chain.pem"))
	issuing, err := x509.ParseCertificate(block.Bytes)
	s.must(err)
	key := newKey(s.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Other Root"}, NotBefore: issuing.NotBefore, NotAfter: issuing.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	sign := func(c, parent *x509.Certificate, public any) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, public, key)
		s.must(err)
		cert, err := x509.ParseCertificate(der)
		s.must(err)
		return cert
	}
	root := sign(template, template, key.Public())
	crossed := *issuing
	crossed.AuthorityKeyId = nil
	cross := sign(&crossed, root, issuing.PublicKey)
	s.write(name, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cross.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})...))
	return root
}

// Who trusts the other root only must come to a certificate's key all the same.
func TestCrossSignedPathsArePublishedBesideTheirChain(t *testing.T) {
	s := newSite(t)
	s.initLog()
	f := s.configure("127.0.0.1:1", "")
	other := s.crossSign("cross.pem")
	s.edit("    certificates: chain.pem\n", "    certificates: chain.pem\n    cross_signed: [cross.pem]\n")
	f, err := config.Load(f.Path, nil)
	s.must(err)
	r := s.start(f, Options{Listener: listen(t)})
	var root trustedRoot
	s.must(json.Unmarshal(get(t, r.url+"/trust/trusted_root.json").body, &root))
	if len(root.CertificateAuthorities) != 2 {
		t.Fatalf("got %d published paths, want the chain's own and the cross-signed one", len(root.CertificateAuthorities))
	}
	a := post(t, r.url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice@corp.example"))
	var v struct {
		SignedCertificateEmbeddedSct struct {
			Chain struct{ Certificates []string }
		}
	}
	s.must(json.Unmarshal(a.body, &v))
	leaf := s.leaf(v.SignedCertificateEmbeddedSct.Chain.Certificates) // ends in the chain's own root
	for i, want := range []*x509.Certificate{s.root, other} {
		certs := root.CertificateAuthorities[i].CertChain.Certificates
		if string(certs[len(certs)-1].RawBytes) != string(want.Raw) {
			t.Errorf("path %d ends in another root than %s", i, want.Subject)
		}
		alone := trustedRoot{CertificateAuthorities: root.CertificateAuthorities[i : i+1]}
		if _, err := alone.verifies(leaf); err != nil {
			t.Errorf("with %s alone: %v", want.Subject, err)
		}
	}
}
