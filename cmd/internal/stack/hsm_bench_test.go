package stack

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

const (
	// tokenDelay is how long the token takes for a signature, without the CPU.
	tokenDelay = 2 * time.Millisecond
	// hsmClients keep the largest pool busy.
	hsmClients = 64
)

// BenchmarkIssuanceHSM is BenchmarkIssuance with the CA key in a token: one that
// takes 2 ms for a signature, as a device does, and SoftHSM, which competes for
// the CPU. The key in a file stands beside them. It reports
//
//	issued/s, p50-ms, p99-ms   as a client would see them
//	cpu-us                     CPU time of the process for a certificate
//	token-signatures/s         what the token signs by itself, in as many sessions
//	issued/signature           the one divided by the other; 0.5 is all of it
//
// It demands nothing of the share: a certificate takes about a millisecond of CPU
// besides, so that on two cores the CPU ends before a token of more than a few
// sessions does, which key=file shows, and sooner when others use it. hsm/pkcs11
// holds the signer alone to 0.45 at every pool size.
func BenchmarkIssuanceHSM(b *testing.B) {
	b.Run("key=file", func(b *testing.B) {
		s := newSite(b)
		s.initLog()
		s.issueAll(b, s.run("").server.Handler())
	})
	for _, token := range []struct {
		name  string
		delay time.Duration
	}{{"token=2ms", tokenDelay}, {"token=softhsm", 0}} {
		for _, pool := range []int{1, 4, 8, 16} {
			var own float64
			b.Run(fmt.Sprintf("%s/pool=%d", token.name, pool), func(b *testing.B) {
				s, m := newTokenSite(b)
				m.Delay("Sign", token.delay)
				if own == 0 {
					own = tokenRate(b, m, pool)
				}
				rate := s.issueAll(b, s.runToken(m, pool).server.Handler())
				b.ReportMetric(own, "token-signatures/s")
				b.ReportMetric(rate/own, "issued/signature")
			})
		}
	}
}

// newTokenSite is a site whose CA key is in a token too.
func newTokenSite(b *testing.B) (*site, *faultmodule.Module) {
	b.Helper()
	s := newSite(b)
	s.initLog()
	block, _ := pem.Decode(s.read("ca.key"))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	s.must(err)
	soft := faultmodule.NewSoftHSM(b)
	soft.Token("corp")
	soft.Import("corp", "ca", "a1", key.(crypto.Signer))
	s.write("pin", []byte(faultmodule.PIN+"\n"))
	return s, soft.Module()
}

// runToken runs the service with the key in the token and so many sessions that
// sign; one more keeps the login.
func (s *site) runToken(m *faultmodule.Module, pool int) *running {
	s.t.Helper()
	ln := listen(s.t)
	s.configure(ln.Addr().String(), "")
	s.edit("key: {file: ca.key}", "key: {tokens: [hsm], object: ca}",
		"chains:", fmt.Sprintf("tokens:\n  - {name: hsm, module: %s, label: corp, pin_file: pin, max_sessions: %d}\nchains:", m.Path, pool+1))
	f, err := config.Load(s.dir+"/mayfly.yaml", nil)
	s.must(err)
	return s.start(f, Options{Listener: ln})
}

// issueAll has clients ask for b.N certificates and returns how many there were
// in a second.
func (s *site) issueAll(b *testing.B, handler http.Handler) float64 {
	b.Helper()
	data, token := body(b, newKey(b), "alice@corp.example"), s.token(nil)
	ask := func() time.Duration {
		req := httptest.NewRequest(http.MethodPost, "/api/v2/signingCert", bytes.NewReader(data))
		req.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		start := time.Now()
		handler.ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			b.Errorf("status %d: %s", w.Code, w.Body)
		}
		return time.Since(start)
	}
	ask()
	b.ReportAllocs()
	b.ResetTimer()
	cpu, start := processCPU(b), time.Now()
	took := spread(b.N, hsmClients, ask)
	rate := float64(b.N) / time.Since(start).Seconds()
	cpu = processCPU(b) - cpu
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(rate, "issued/s")
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us")
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
	return rate
}

// tokenRate returns how many signatures the token makes in a second in so many
// sessions, with nothing around the calls of PKCS#11.
func tokenRate(b *testing.B, m *faultmodule.Module, pool int) float64 {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	ctx := p11.New(m.Path)
	defer ctx.Destroy()
	must(ctx.Initialize())
	defer func() { must(ctx.Finalize()) }()
	slots, err := ctx.GetSlotList(true)
	must(err)
	sessions := make([]p11.SessionHandle, pool)
	for i := range sessions {
		sessions[i], err = ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION)
		must(err)
	}
	must(ctx.Login(sessions[0], p11.CKU_USER, faultmodule.PIN))
	must(ctx.FindObjectsInit(sessions[0], []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)}))
	keys, _, err := ctx.FindObjects(sessions[0], 1)
	must(err)
	must(ctx.FindObjectsFinal(sessions[0]))
	digest := sha256.Sum256([]byte("to be signed"))
	var made atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for _, session := range sessions {
		wg.Go(func() {
			for time.Since(start) < time.Second {
				err := ctx.SignInit(session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, keys[0])
				if err == nil {
					_, err = ctx.Sign(session, digest[:])
				}
				if err != nil {
					b.Error(err)
					return
				}
				made.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(made.Load()) / time.Since(start).Seconds()
}
