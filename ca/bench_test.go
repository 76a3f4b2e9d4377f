package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// instantLog and instantRecorder answer at once: what is left is ours.
type instantLog struct{}

func (instantLog) Ready() error { return nil }

func (instantLog) Submit(context.Context, Submission) (SCT, error) {
	// As long as the SCT of a static-ct-api log with a P-256 key.
	return SCT{Log: "instant", Timestamp: testTime, TLS: make([]byte, 127)}, nil
}

type instantRecorder struct{}

func (instantRecorder) Ready() error                                               { return nil }
func (instantRecorder) LastTime() time.Time                                        { return time.Time{} }
func (instantRecorder) Intent(context.Context, Intent) (uint64, error)             { return 1, nil }
func (instantRecorder) Outcome(context.Context, Outcome) error                     { return nil }
func (instantRecorder) Refused(context.Context, Request, Decision, *Refusal) error { return nil }

// benchDecision is what policy decides about a pipeline of GitLab: eleven build
// facts and a name of usual length.
func benchDecision(b *testing.B) Decision {
	b.Helper()
	san, err := URISAN("https://gitlab.corp.example/payments/ledger//.gitlab-ci.yml@refs/heads/main")
	if err != nil {
		b.Fatal(err)
	}
	d := Decision{Rule: "pipelines", SAN: san}
	for _, n := range []int{9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 21} {
		d.Extensions = append(d.Extensions, Extension{n, "https://gitlab.corp.example/payments/ledger"})
	}
	return d
}

func benchAuthority(b *testing.B, key crypto.Signer) (*Authority, *Chain) {
	b.Helper()
	chain := newPKI(b, key, nil).chain(b)
	decision := benchDecision(b)
	a, err := New(Config{
		Chains: []*Chain{chain}, Log: instantLog{}, Recorder: instantRecorder{}, Registerer: prometheus.NewRegistry(),
		Policy: func(context.Context, Request) (Decision, error) { return decision, nil },
		Clock:  func() time.Time { return testTime },
	})
	if err != nil {
		b.Fatal(err)
	}
	return a, chain
}

func benchDraft(b *testing.B) (*Authority, *draft, tbs) {
	b.Helper()
	a, _ := benchAuthority(b, p256(b))
	_, d, encoded, err := a.prepare(b.Context(), testRequest(b, p256(b)))
	if err != nil {
		b.Fatal(err)
	}
	return a, d, encoded
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// beside runs do and, every so often, floor as many times, outside of the
// benchmark's figures, and reports the CPU time of the one divided by that of
// the other. Both meet the same machine in the same second.
func beside(b *testing.B, metric string, do, floor func()) {
	b.Helper()
	const round = 64
	var mine, bare time.Duration
	b.ReportAllocs()
	var n, done int
	cpu := processCPU(b)
	for b.Loop() {
		do()
		if n++; n%round != 0 {
			continue
		}
		// Stopping and starting the timer costs more than some of what is
		// measured, and so stays outside of both.
		mine += processCPU(b) - cpu
		b.StopTimer()
		start := processCPU(b)
		for range round {
			floor()
		}
		bare += processCPU(b) - start
		done += round
		b.StartTimer()
		cpu = processCPU(b)
	}
	if done == 0 {
		return // a run of one iteration, which measures nothing
	}
	b.ReportMetric(float64(mine)/float64(bare), metric)
	b.ReportMetric(float64(mine-bare)/float64(done)/1e3, "over-floor-µs")
}

// BenchmarkIssue is everything between a request and its certificate that is not
// policy, log or journal. It reports
//
//	cpu/floor       CPU time divided by that of the public-key operations that
//	                the design prescribes here (precertificate and certificate
//	                signed, the final signature verified) with the standard
//	                library, both measured in this run
//	over-floor-µs   the difference of the two
func BenchmarkIssue(b *testing.B) {
	for _, tc := range []struct {
		name string
		key  func() crypto.Signer
	}{
		{"P-256", func() crypto.Signer { return p256(b) }},
		{"P-384", func() crypto.Signer { return mustECDSA(b, elliptic.P384()) }},
		{"RSA-3072", func() crypto.Signer { return rsaKey(b, 3072) }},
	} {
		b.Run(tc.name, func(b *testing.B) {
			key := tc.key()
			a, chain := benchAuthority(b, key)
			r := testRequest(b, p256(b))
			beside(b, "cpu/floor", func() {
				if _, err := a.Issue(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}, func() { bareSignatures(b, key, chain.hash) })
		})
	}
}

func bareSignatures(b *testing.B, key crypto.Signer, hash crypto.Hash) {
	b.Helper()
	digest := make([]byte, hash.Size())
	var signature []byte
	for range 2 {
		var err error
		if signature, err = key.Sign(rand.Reader, digest, hash); err != nil {
			b.Fatal(err)
		}
	}
	if !bareVerify(key.Public(), hash, digest, signature) {
		b.Fatal("signature does not verify")
	}
}

func bareVerify(public crypto.PublicKey, hash crypto.Hash, digest, signature []byte) bool {
	switch pub := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, hash, digest, signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(pub, digest, signature)
	}
	return false
}

var clientKeys = []struct {
	name string
	key  func(b *testing.B) crypto.Signer
	hash crypto.Hash
}{
	{"P-256", func(b *testing.B) crypto.Signer { return p256(b) }, crypto.SHA256},
	{"P-384", func(b *testing.B) crypto.Signer { return mustECDSA(b, elliptic.P384()) }, crypto.SHA384},
	{"RSA-2048", func(b *testing.B) crypto.Signer { return rsaKey(b, 2048) }, crypto.SHA256},
	{"RSA-4096", func(b *testing.B) crypto.Signer { return rsaKey(b, 4096) }, crypto.SHA256},
	{"Ed25519", func(b *testing.B) crypto.Signer { return mustEd25519(b) }, 0},
}

// BenchmarkProve is the proof of possession with every check of the key. It
// reports cpu/floor, where the floor is the bare verification of the signature.
func BenchmarkProve(b *testing.B) {
	id := testIdentity()
	id.Email = ""
	for _, tc := range clientKeys {
		key := tc.key(b)
		message := []byte(id.Subject)
		if tc.hash != 0 {
			message = digest(tc.hash, message)
		}
		signature, err := key.Sign(rand.Reader, message, tc.hash)
		if err != nil {
			b.Fatal(err)
		}
		floor := func() {
			if !bareVerify(key.Public(), tc.hash, message, signature) {
				b.Fatal("signature does not verify")
			}
		}
		spki := mustSPKI(b, key)
		public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
		b.Run("signature/"+tc.name, func(b *testing.B) {
			beside(b, "cpu/floor", func() {
				if _, err := ProveSignature(public, signature, id); err != nil {
					b.Fatal(err)
				}
			}, floor)
		})
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			b.Fatal(err)
		}
		csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		b.Run("csr/"+tc.name, func(b *testing.B) {
			beside(b, "cpu/floor", func() {
				if _, err := ProveCSR(csr); err != nil {
					b.Fatal(err)
				}
			}, floor)
		})
	}
}

func mustSPKI(b *testing.B, key crypto.Signer) []byte {
	b.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		b.Fatal(err)
	}
	return der
}

// BenchmarkKeyQuality is all that is done with a client's key before anything is
// verified with it.
func BenchmarkKeyQuality(b *testing.B) {
	for _, tc := range clientKeys {
		spki := mustSPKI(b, tc.key(b))
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, why := parsePublicKey(spki); why != nil {
					b.Fatal(why)
				}
			}
		})
	}
}

// BenchmarkEncode makes the three forms of the to-be-signed bytes.
func BenchmarkEncode(b *testing.B) {
	_, d, _ := benchDraft(b)
	sct := make([]byte, 127)
	b.ReportAllocs()
	for b.Loop() {
		encoded, err := d.encode()
		if err != nil {
			b.Fatal(err)
		}
		list, err := sctList(sct)
		if err != nil {
			b.Fatal(err)
		}
		pre := precertificate(encoded)
		plain := encoded.with(nil)
		final := encoded.with(list)
		if len(pre) == 0 || len(plain) == 0 || len(final) == 0 {
			b.Fatal("nothing was encoded")
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	_, d, encoded := benchDraft(b)
	pre := precertificate(encoded)
	b.ReportAllocs()
	for b.Loop() {
		if err := judge(pre, d, testIdentity()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCorrespond(b *testing.B) {
	_, _, encoded := benchDraft(b)
	sct := make([]byte, 127)
	list, err := sctList(sct)
	if err != nil {
		b.Fatal(err)
	}
	pre := precertificate(encoded)
	final := encoded.with(list)
	b.ReportAllocs()
	for b.Loop() {
		if err := correspond(pre, final, sct); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPEM is what the answer costs beside the certificate.
func BenchmarkPEM(b *testing.B) {
	a, _ := benchAuthority(b, p256(b))
	cert, err := a.Issue(b.Context(), testRequest(b, p256(b)))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(cert.PEM()) != 3 {
			b.Fatal("not three certificates")
		}
	}
}

// BenchmarkIssueAmongMany shows that an issuance does not cost more because
// there are other chains, authorities and profiles.
func BenchmarkIssueAmongMany(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			key := p256(b)
			a, chain := benchAuthority(b, key)
			// What New would make of as many; it rehearses each, for minutes.
			for i := range n - 1 {
				other := *chain
				other.name, other.authority = fmt.Sprint("corp-", i), fmt.Sprint("tenant-", i)
				same := *chain
				same.name, same.activate = fmt.Sprint("future-", i), testTime.AddDate(0, 0, i+1)
				a.chains = append(a.chains, &other, &same)
				p := DefaultProfile()
				p.Name = fmt.Sprint("profile-", i)
				a.profiles[p.Name] = p
			}
			a.schedule = newSchedule(a.chains)
			r := testRequest(b, p256(b))
			beside(b, "cpu/floor", func() {
				if _, err := a.Issue(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}, func() { bareSignatures(b, key, chain.hash) })
		})
	}
}
