package stack

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
	"github.com/mayfly-ca/mayfly/internal/floor"
)

const (
	// tokenDelay is how long the token takes for a signature, without the CPU.
	tokenDelay = 2 * time.Millisecond
	// hsmClients keep the largest pool busy.
	hsmClients = 64
)

// BenchmarkIssuanceHSM is BenchmarkIssuance with the CA key in a token: one that
// takes 2 ms for a signature, as a device does, and SoftHSM, which competes for
// the CPU. The key in a file stands beside them. Beside what that one reports,
// there are
//
//	token-signatures/s         what the token signs by itself, in as many sessions
//	issued/signature           the one divided by the other; 0.5 is all of it
//
// It demands nothing of the share: a certificate takes about a millisecond of CPU
// besides, so that on two cores the CPU ends before a token of more than a few
// sessions does, which key=file shows, and sooner when others use it. hsm/pkcs11
// holds the signer alone to 0.45 at every pool size.
func BenchmarkIssuanceHSM(b *testing.B) {
	arithmetic := newFloor(b, floor.Spec{})
	b.Run("key=file", func(b *testing.B) {
		s := newSite(b)
		s.initLog()
		measure(b, hsmClients, arithmetic, inProcess(b, s.loaded().server.Handler(), s.calls(apiV2, "")))
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
					own = m.SignatureRate(b, pool)
				}
				rate := measure(b, hsmClients, arithmetic, inProcess(b, s.runToken(m, pool).server.Handler(), s.calls(apiV2, "")))
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
