package stack

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
)

// demandPolicy replaces chain.pem by a path for the same key that demands a
// certificate policy of what it issues.
func (s *site) demandPolicy(oid string) {
	s.t.Helper()
	policy, err := x509.ParseOID(oid)
	s.must(err)
	block, _ := pem.Decode(s.read("ca.key"))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	s.must(err)
	rootKey := newKey(s.t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Strict Root"}, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	issuing := *root
	issuing.Subject.CommonName, issuing.Policies = "Strict CA", []x509.OID{policy}
	// RFC 5280, Section 4.2.1.11: requireExplicitPolicy, from here on.
	issuing.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 3, 0x80, 1, 0}}}
	var file []byte
	for _, c := range []struct {
		template *x509.Certificate
		public   any
	}{{&issuing, key.(crypto.Signer).Public()}, {root, rootKey.Public()}} {
		der, err := x509.CreateCertificate(rand.Reader, c.template, root, c.public, rootKey)
		s.must(err)
		file = append(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	s.write("chain.pem", file)
}

// A chain and a profile may each be good and not go together. A check finds it
// as a start would, before the first request.
func TestCheckRehearsesEveryProfileUnderEveryChain(t *testing.T) {
	const policy = "1.3.6.1.4.1.55555.7"
	s := newSite(t)
	s.demandPolicy(policy)
	s.initLog()
	f := s.configure("127.0.0.1:8443", embeddedLogs)
	problems := Check(f, time.Now())
	if len(problems) != 1 || !strings.Contains(problems.Error(), `would not work with profile "default"`) {
		t.Errorf("problems %v, want one that names the profile which lacks the policy %s", problems, policy)
	}
	f.Profiles = append(f.Profiles, config.Profile{Name: config.DefaultName, Lifetime: 10 * time.Minute, Policies: []string{policy}})
	if problems := Check(f, time.Now()); len(problems) != 0 {
		t.Errorf("problems %v with the policy in the profile, want none", problems)
	}
}
