package stack

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/config"
)

// replica runs the service from the same file as others, with a state of its own.
func (s *site) replica(name string) *running {
	s.t.Helper()
	load := func() (*config.File, error) {
		flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
		config.AddFlags(flags)
		if err := flags.Parse([]string{"--state", s.dir + "/state-" + name}); err != nil {
			return nil, err
		}
		return config.Load(s.dir+"/mayfly.yaml", flags)
	}
	f, err := load()
	s.must(err)
	return s.start(f, Options{Listener: listen(s.t), Load: load})
}

// trustedRoot is what verifiers need, as clients read it.
type trustedRoot struct {
	CertificateAuthorities []struct {
		CertChain struct{ Certificates []struct{ RawBytes []byte } }
	}
}

// verifies checks a leaf against the trusted root alone, and returns the subject
// of who issued it.
func (root trustedRoot) verifies(leaf *x509.Certificate) (string, error) {
	err := fmt.Errorf("no authority")
	for _, a := range root.CertificateAuthorities {
		options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
		var first *x509.Certificate
		for i, c := range a.CertChain.Certificates {
			cert, parseErr := x509.ParseCertificate(c.RawBytes)
			if parseErr != nil {
				return "", parseErr
			}
			if first == nil {
				first = cert
			}
			if i == len(a.CertChain.Certificates)-1 {
				options.Roots.AddCert(cert)
			} else {
				options.Intermediates.AddCert(cert)
			}
		}
		if _, err = leaf.Verify(options); err == nil {
			return first.Subject.String(), nil
		}
	}
	return "", err
}

// load issues at one replica and verifies with what the other one published
// before, again and again.
type load struct {
	issued, failed atomic.Int64
	mu             sync.Mutex
	by             map[string]int // certificates by who issued them
	first          error
}

func (l *load) fail(err error) {
	l.failed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = err
	}
}

func (l *load) countBy(issuer string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[issuer]
}

func (l *load) once(ctx context.Context, from, other, token string, request []byte) error {
	var root trustedRoot
	a, err := fetch(ctx, http.MethodGet, other+"/trust/trusted_root.json", "", nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, &root); err != nil {
		return err
	}
	if a, err = fetch(ctx, http.MethodPost, from+"/api/v2/signingCert", token, request); err != nil {
		return err
	}
	var v struct {
		SignedCertificateDetachedSct struct {
			Chain struct{ Certificates []string }
		}
	}
	if a.status != http.StatusOK || json.Unmarshal(a.body, &v) != nil {
		return fmt.Errorf("status %d: %s", a.status, a.body)
	}
	block, _ := pem.Decode([]byte(v.SignedCertificateDetachedSct.Chain.Certificates[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	issuer, err := root.verifies(leaf)
	if err != nil {
		return fmt.Errorf("a certificate by %s, with what was published before: %w", leaf.Issuer, err)
	}
	l.mu.Lock()
	l.by[issuer]++
	l.mu.Unlock()
	l.issued.Add(1)
	return nil
}

// fetch is send for goroutines that are not the test's.
func fetch(ctx context.Context, method, url, token string, data []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(data))
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	return answer{resp.StatusCode, resp.Header, b.Bytes()}, err
}

// A chain is added, published, activated, and the one before retired, while
// certificates are issued and verified all along: nobody notices.
func TestRotationUnderLoad(t *testing.T) {
	s := newSite(t)
	s.configure("127.0.0.1:1", "") // that address is in the file only; each replica has its own
	s.edit("logs:\n"+embeddedLogs, "logs: disabled")
	text := s.mount()
	a, b := s.replica("a"), s.replica("b")
	agree := func(when string, chains int) {
		t.Helper()
		for _, document := range []string{"/trust/trusted_root.json", "/trust/signing_config.json", "/api/v2/trustBundle"} {
			x, y := get(t, a.url+document), get(t, b.url+document)
			if !bytes.Equal(x.body, y.body) {
				t.Errorf("%s: %s differs between replicas:\n%s\n%s", when, document, x.body, y.body)
			}
		}
		if got := strings.Count(string(get(t, a.url+"/trust/trusted_root.json").body), "certChain"); got != chains {
			t.Errorf("%s: got %d published chains, want %d", when, got, chains)
		}
	}
	both := func(what string, is func(*running) bool) {
		t.Helper()
		eventually(t, what, func() bool { return is(a) && is(b) })
	}
	agree("before", 1)
	l := &load{by: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	token := s.token(nil)
	for i := range 4 {
		from, other := a.url, b.url
		if i%2 == 1 {
			from, other = other, from
		}
		request := body(t, newKey(t), "alice@corp.example")
		workers.Go(func() {
			for ctx.Err() == nil {
				if err := l.once(ctx, from, other, token, request); err != nil && ctx.Err() == nil {
					l.fail(err)
				}
			}
		})
	}
	defer func() { cancel(); workers.Wait() }()

	next := newSite(t)
	next.makePKI("Next", x509.ExtKeyUsageCodeSigning)
	for _, file := range []string{"chain.pem", "ca.key"} {
		s.write("next/"+file, next.read(file))
	}
	activate := time.Now().Add(7 * time.Second).Truncate(time.Second)
	second := "  - name: next\n    certificates: next/chain.pem\n    key: {file: next/ca.key}\n    emergency: true\n    activate: " + stamp(activate) + "\nlogs:"
	withNext := strings.Replace(text, "logs:", second, 1)
	s.swap(withNext)
	both("the next chain is published", func(r *running) bool { return len(r.current.Load().authority.TrustBundle("")) == 2 })
	if now := time.Now(); !now.Before(activate) {
		t.Fatalf("the next chain was published at %v, after its activation at %v: the machine is too slow for this test", now, activate)
	}
	agree("published", 2)

	const byNext = "CN=Code Signing CA,O=Next"
	eventually(t, "the next chain signs", func() bool { return l.countBy(byNext) > 20 })
	agree("active", 2)

	// A broken file stays on disk for a while.
	s.swap(strings.Replace(withNext, "next/chain.pem", "chain.pem", 1))
	both("the broken chain is refused", func(r *running) bool { return r.reloads.refused.Load() })
	agree("while a broken file is there", 2)

	retired := strings.Replace(withNext, "    key: {file: ca.key}\n", "    retire: "+stamp(time.Now().Add(-time.Second))+"\n    activate: 2026-01-01T00:00:00Z\n", 1)
	s.swap(retired)
	both("the old chain is retired", func(r *running) bool {
		return !r.reloads.refused.Load() && r.current.Load().file.Chains[0].Retired(time.Now())
	})
	agree("retired", 2)
	before := l.countBy(byNext)
	eventually(t, "certificates are issued without the old key", func() bool { return l.countBy(byNext) > before+20 })

	s.swap(strings.Replace(retired, retired[strings.Index(retired, "  - name: corp"):strings.Index(retired, "  - name: next")], "", 1))
	both("the old chain is gone", func(r *running) bool { return len(r.current.Load().authority.TrustBundle("")) == 1 })
	agree("removed", 1)
	cancel()
	workers.Wait()
	if l.failed.Load() > 0 || l.countBy("CN=Code Signing CA,O=Corp") == 0 {
		t.Errorf("%d of %d requests failed, want none; certificates by %v; first failure: %v", l.failed.Load(), l.issued.Load()+l.failed.Load(), l.by, l.first)
	}
	t.Logf("%d certificates issued and verified, by %v", l.issued.Load(), l.by)
}
