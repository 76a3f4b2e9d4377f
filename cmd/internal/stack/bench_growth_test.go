package stack

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/floor"
)

// growthClients ask at once in the benchmarks of what must not grow.
const growthClients = 16

// BenchmarkIssuers is BenchmarkIssuance with so many issuers configured, of which
// the last one is asked for: a request costs the same. Keys come from a file, so
// that no provider is needed for the others. It reports start-ms as well, which is
// what a start and a reload take, and which does grow.
func BenchmarkIssuers(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		s := newSite(b)
		s.initLog()
		s.writeKeys("keys.json")
		ln := listen(b)
		f := s.configure(ln.Addr().String(), "")
		asked := f.Issuers[0]
		asked.JWKSFile = s.dir + "/keys.json"
		f.Issuers = nil
		// More than a megabyte of YAML is refused, so the plain data are extended.
		for i := range n - 1 {
			domain := fmt.Sprintf("corp-%d.example", i)
			other := asked
			other.Name, other.URL, other.InsecureHTTP = fmt.Sprintf("other-%d", i), "https://"+domain, false
			other.MayIssue = config.MayIssue{EmailDomains: []string{domain}}
			f.Issuers = append(f.Issuers, other)
		}
		f.Issuers = append(f.Issuers, asked)
		s.grown(b, fmt.Sprintf("issuers=%d", n), f, Options{Listener: ln})
	}
}

// BenchmarkRules is BenchmarkIssuance with so many rules of the asked issuer, of
// which the last one matches. They are tried in their order, so this grows by what
// the conditions cost that are looked at; an issuer has 64 at most.
func BenchmarkRules(b *testing.B) {
	for _, n := range []int{1, 8, 64} {
		s := newSite(b)
		s.initLog()
		var rules strings.Builder
		rules.WriteString("    may_issue: {email_domains: [corp.example]}\n    rules:\n")
		for i := range n - 1 {
			fmt.Fprintf(&rules, "      - {name: other-%d, when: 'claims.email == \"nobody-%d@corp.example\" && claims.email_verified == true', san: email(claims.email)}\n", i, i)
		}
		rules.WriteString("      - {name: last, when: 'claims.email_verified == true', san: email(claims.email)}\n")
		ln := listen(b)
		f := s.ruled(ln.Addr().String(), rules.String())
		s.grown(b, fmt.Sprintf("rules=%d", n), f, Options{Listener: ln})
	}
}

// BenchmarkChains is BenchmarkIssuance with so many chains, of which all but one
// are retired. They stay published.
func BenchmarkChains(b *testing.B) {
	for _, n := range []int{1, 100} {
		s := newSite(b)
		s.initLog()
		ln := listen(b)
		s.configure(ln.Addr().String(), "")
		text, signing, chain := s.read("mayfly.yaml"), s.read("ca.key"), s.read("chain.pem")
		var retired strings.Builder
		for i := range n - 1 {
			s.makePKI(fmt.Sprintf("Corp %d", i), x509.ExtKeyUsageCodeSigning)
			name := fmt.Sprintf("old-%d", i)
			s.write(name+".pem", s.read("chain.pem"))
			end := time.Now().Add(-time.Duration(i+1) * time.Minute)
			fmt.Fprintf(&retired, "  - {name: %s, certificates: %s.pem, activate: %s, retire: %s}\n",
				name, name, stamp(end.Add(-30*time.Second)), stamp(end))
		}
		s.write("ca.key", signing)
		s.write("chain.pem", chain)
		s.write("mayfly.yaml", text)
		s.edit("logs:\n", "    activate: "+stamp(time.Now().Add(-10*time.Second))+"\n"+retired.String()+"logs:\n")
		f, err := config.Load(s.dir+"/mayfly.yaml", nil)
		s.must(err)
		s.grown(b, fmt.Sprintf("chains=%d", n), f, Options{Listener: ln})
	}
}

// grown runs the service, measures issuances and stops it again.
func (s *site) grown(b *testing.B, name string, f *config.File, o Options) {
	b.Helper()
	begin := time.Now()
	r := s.start(f, o)
	started := time.Since(begin)
	ask := inProcess(b, r.server.Handler(), s.calls(apiV2, ""))
	arithmetic := newFloor(b, floor.Spec{})
	b.Run(name, func(b *testing.B) {
		measure(b, growthClients, arithmetic, ask)
		b.ReportMetric(started.Seconds()*1e3, "start-ms")
	})
	s.must(r.stop())
	s.must(os.RemoveAll(s.dir))
}

// writeKeys writes the provider's keys to a file.
func (s *site) writeKeys(name string) {
	s.t.Helper()
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: s.public, KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	s.must(err)
	s.write(name, data)
}
