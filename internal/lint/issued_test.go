package lint_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	zlintlint "github.com/zmap/zlint/v3/lint"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/lint"
)

// zlint's lints come into effect by the certificate's dates.
var now = time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)

type signer struct{ crypto.Signer }

func (s signer) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.Signer.Sign(rand.Reader, digest, opts)
}

func (signer) Ready() error { return nil }

// recorder records nothing: what is recorded is package ca's to test.
type recorder struct{}

func (recorder) Intent(context.Context, ca.Intent) (uint64, error)                   { return 1, nil }
func (recorder) Outcome(context.Context, ca.Outcome) error                           { return nil }
func (recorder) Refused(context.Context, ca.Request, ca.Decision, *ca.Refusal) error { return nil }
func (recorder) LastTime() time.Time                                                 { return time.Time{} }
func (recorder) Ready() error                                                        { return nil }

// log keeps the last precertificate.
type log struct{ precertificate []byte }

func (*log) Ready() error { return nil }

func (l *log) Submit(_ context.Context, s ca.Submission) (ca.SCT, error) {
	l.precertificate = s.Precertificate
	return ca.SCT{Log: "test", TLS: make([]byte, 119), Timestamp: now}, nil
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func makeChain(t testing.TB, name string, key crypto.Signer, change func(*ca.ChainConfig)) *ca.Chain {
	t.Helper()
	rootKey := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root", Organization: []string{"Corp"}, Country: []string{"DE"}},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	inter := *root
	inter.Subject.CommonName, inter.MaxPathLenZero, inter.ExtKeyUsage = "Issuing", true, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	rootCert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey))(t)))(t)
	issuing := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &inter, rootCert, key.Public(), rootKey))(t)))(t)
	cfg := ca.ChainConfig{Name: name, Authority: name, Certificates: []*x509.Certificate{issuing, rootCert}, Signer: signer{key}}
	if change != nil {
		change(&cfg)
	}
	return must(ca.NewChain(cfg, now))(t)
}

func prove(t testing.TB, key crypto.Signer, id ca.Identity) ca.ProvenKey {
	t.Helper()
	spki := must(x509.MarshalPKIXPublicKey(key.Public()))(t)
	digest := sha256.Sum256([]byte(id.Subject))
	var signature []byte
	switch key.(type) {
	case ed25519.PrivateKey:
		signature = must(key.Sign(rand.Reader, []byte(id.Subject), crypto.Hash(0)))(t)
	default:
		signature = must(key.Sign(rand.Reader, digest[:], crypto.SHA256))(t)
	}
	return must(ca.ProveSignature(spki, signature, id))(t)
}

// everything is an authority with every shape of chain and profile.
func everything(t testing.TB, sink *log, decide *ca.Decision) (*ca.Authority, map[string]*ca.Chain, []ca.Profile) {
	t.Helper()
	oids := []x509.OID{must(x509.ParseOID("1.3.6.1.4.1.55555.1"))(t), must(x509.ParseOID("2.23.140.1.4.1"))(t)} // the second is the CA/Browser Forum's for code signing
	chains := map[string]*ca.Chain{
		"p256":    makeChain(t, "p256", must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t), nil),
		"p384":    makeChain(t, "p384", must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t), func(c *ca.ChainConfig) { c.CAIssuersURL = "http://pki.corp.example/issuing.cer" }),
		"rsa2048": makeChain(t, "rsa2048", must(rsa.GenerateKey(rand.Reader, 2048))(t), nil),
		"rsa3072": makeChain(t, "rsa3072", must(rsa.GenerateKey(rand.Reader, 3072))(t), nil),
	}
	profiles := []ca.Profile{
		{Name: ca.DefaultName, Lifetime: ca.MaxLifetime, Backdate: ca.DefaultBackdate},
		{Name: "brief", Lifetime: ca.MinLifetime},
		{Name: "policed", Lifetime: 5 * time.Minute, Policies: oids},
		{Name: "final", Lifetime: 5 * time.Minute, NoRevAvail: true},
	}
	cfg := ca.Config{Profiles: profiles, Recorder: recorder{}, Log: sink, Clock: func() time.Time { return now },
		Policy: func(context.Context, ca.Request) (ca.Decision, error) { return *decide, nil }}
	for _, c := range chains {
		cfg.Chains = append(cfg.Chains, c)
	}
	return must(ca.New(cfg))(t), chains, profiles
}

// notes are lints of zlint that are not for private code signing.
var notes = map[string]string{
	"w_ct_sct_policy_count_unsatisfied": "Apple's policy for servers; Sigstore's clients want exactly one SCT",
}

func lintAll(t *testing.T, name string, der []byte, issuer *x509.Certificate) (applied int) {
	t.Helper()
	for _, f := range lint.Leaf(der, issuer) {
		t.Errorf("%s: %s: %s", name, f.Check, f.Text)
	}
	parsed, err := zx509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("%s: zcrypto does not parse it: %v", name, err)
	}
	for id, r := range zlint.LintCertificate(parsed).Results {
		if r.Status > zlintlint.NE {
			applied++
		}
		if _, expected := notes[id]; r.Status > zlintlint.Pass && !expected {
			t.Errorf("%s: zlint: %s: %v %s", name, id, r.Status, r.Details)
		}
	}
	return applied
}

func TestEveryCertificateThatCanBeIssuedIsClean(t *testing.T) {
	var sink log
	var decision ca.Decision
	a, chains, profiles := everything(t, &sink, &decision)
	id := ca.Identity{IssuerName: "kc", Issuer: "https://kc.corp.example/realms/eng", Subject: "f:1:älice",
		Token: ca.TokenFacts{UsableUntil: now.Add(time.Hour)}}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := []crypto.Signer{must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t), must(rsa.GenerateKey(rand.Reader, 2048))(t), ed}
	var extensions []ca.Extension
	for n := 2; n < 24; n++ {
		if n != 7 && n != 8 {
			extensions = append(extensions, ca.Extension{Number: n, Value: fmt.Sprintf("https://git.corp.example/%d", n)})
		}
	}
	sans := []ca.SAN{
		must(ca.EmailSAN("alice@corp.example"))(t), must(ca.URISAN("https://ci.corp.example/job/a%20b"))(t),
		must(ca.URISAN("spiffe://corp.example/ns/a/sa/b"))(t), must(ca.UsernameSAN("alice", "corp.example"))(t),
	}
	count := 0
	for _, key := range keys {
		proven := prove(t, key, id)
		for name, chain := range chains {
			for _, p := range profiles {
				for i, san := range sans {
					decision = ca.Decision{Rule: "all", SAN: san, Profile: p.Name, Authority: name}
					if i == 1 {
						decision.Extensions = extensions
					}
					cert, err := a.Issue(t.Context(), ca.Request{Identity: id, Key: proven, Time: now, ID: "1", Source: netip.IPv6Loopback(), API: "grpc"})
					if err != nil {
						t.Fatal(err)
					}
					what := fmt.Sprintf("%s under %s, profile %s, for %s", proven.Kind(), name, p.Name, san)
					applied := lintAll(t, what, cert.DER, chain.Certificates()[0])
					lintAll(t, what+" (precertificate)", sink.precertificate, chain.Certificates()[0])
					if applied < 40 {
						t.Errorf("%s: only %d lints of zlint looked at it", what, applied)
					}
					count++
				}
			}
		}
	}
	if want := len(keys) * len(chains) * len(profiles) * len(sans); count != want {
		t.Errorf("%d certificates, want %d", count, want)
	}
}

// What is looked at when a chain comes into use is as clean as what is issued.
func TestRehearsalsAreClean(t *testing.T) {
	_, chains, profiles := everything(t, new(log), new(ca.Decision))
	all, err := ca.Rehearse(slices.Collect(maps.Values(chains)), profiles, now)
	if err != nil {
		t.Fatal(err)
	}
	if want := 4 * len(profiles) * 3; len(all) != want {
		t.Errorf("%d rehearsals, want %d", len(all), want)
	}
	for _, r := range all {
		lintAll(t, fmt.Sprintf("rehearsal of %s, %s, %s", r.Chain, r.Profile, r.Kind), r.DER, r.Issuer)
	}
}
