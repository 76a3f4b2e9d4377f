package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func issue(t *testing.T, a *testAuthority, r Request) *x509.Certificate {
	t.Helper()
	cert, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(cert.DER)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestIssueFollowsTheProfile(t *testing.T) {
	for _, tc := range []struct {
		name   string
		client crypto.Signer
		issuer crypto.Signer
		alg    x509.SignatureAlgorithm
	}{
		{"ECDSA P-256 under P-256", p256(t), p256(t), x509.ECDSAWithSHA256},
		{"RSA 2048 under RSA 2048", rsaKey(t, 2048), rsaKey(t, 2048), x509.SHA256WithRSA},
		{"Ed25519 under P-384", mustEd25519(t), mustECDSA(t, elliptic.P384()), x509.ECDSAWithSHA384},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPKI(t, tc.issuer, nil)
			a := newTestAuthority(t, func(c *Config) { c.Chains = []*Chain{p.chain(t)} })
			cert := issue(t, a, testRequest(t, tc.client))
			if cert.SignatureAlgorithm != tc.alg {
				t.Errorf("signature algorithm %v, want %v", cert.SignatureAlgorithm, tc.alg)
			}
			if len(cert.RawSubject) != 2 || cert.IsCA || cert.BasicConstraintsValid {
				t.Errorf("subject %x, CA %v: want an empty subject and no basic constraints", cert.RawSubject, cert.IsCA)
			}
			if got := cert.NotAfter.Sub(cert.NotBefore); got != 10*time.Minute {
				t.Errorf("valid for %v, want 10m", got)
			}
			if want := testTime.Truncate(time.Second).Add(-30 * time.Second); !cert.NotBefore.Equal(want) {
				t.Errorf("not before %v, want %v", cert.NotBefore, want)
			}
			if n := len(cert.SerialNumber.Bytes()); n != 20 || cert.SerialNumber.Sign() <= 0 {
				t.Errorf("serial has %d octets, sign %d", n, cert.SerialNumber.Sign())
			}
			if len(cert.SubjectKeyId) != 20 || !bytes.Equal(cert.AuthorityKeyId, p.intermediate.SubjectKeyId) {
				t.Errorf("key identifiers %x and %x", cert.SubjectKeyId, cert.AuthorityKeyId)
			}
			if !slices.Equal(cert.EmailAddresses, []string{"alice@corp.example"}) {
				t.Errorf("names %v", cert.EmailAddresses)
			}
			verifyAgainstRoot(t, cert, p)
			checkExtensions(t, cert)
		})
	}
}

func mustECDSA(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func verifyAgainstRoot(t *testing.T, cert *x509.Certificate, p pki) {
	t.Helper()
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(p.root)
	inter.AddCert(p.intermediate)
	// crypto/x509 handles a critical SAN with an email by itself.
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inter, CurrentTime: testTime, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		t.Errorf("certificate does not verify against the root: %v", err)
	}
}

func checkExtensions(t *testing.T, cert *x509.Certificate) {
	t.Helper()
	want := []string{
		"2.5.29.15 critical", "2.5.29.37", "2.5.29.14", "2.5.29.35", "2.5.29.17 critical",
		"1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.24", "1.3.6.1.4.1.11129.2.4.2",
	}
	var got []string
	values := map[string][]byte{}
	for _, e := range cert.Extensions {
		s := e.Id.String()
		values[s] = e.Value
		if e.Critical {
			s += " critical"
		}
		got = append(got, s)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("extensions\n got %v\nwant %v", got, want)
	}
	id := testIdentity()
	if v := values["1.3.6.1.4.1.57264.1.1"]; string(v) != id.Issuer {
		t.Errorf("raw issuer %q", v)
	}
	for oid, want := range map[string]string{"1.3.6.1.4.1.57264.1.8": id.Issuer, "1.3.6.1.4.1.57264.1.24": id.Subject} {
		if v := values[oid]; len(v) != len(want)+2 || v[0] != asn1.TagUTF8String || string(v[2:]) != want {
			t.Errorf("%s is %x, want the UTF8String %q", oid, v, want)
		}
	}
	list := values["1.3.6.1.4.1.11129.2.4.2"]
	const sct = "an sct of some bytes"
	if want := append([]byte{0x04, 24, 0, 22, 0, 20}, sct...); !bytes.Equal(list, want) {
		t.Errorf("SCT list %x, want %x", list, want)
	}
}

func TestIssueCarriesDecidedExtensionsInOrder(t *testing.T) {
	a := newTestAuthority(t, nil)
	a.decision.Extensions = []Extension{{2, "push"}, {12, "https://git.corp.example/x"}, {21, strings.Repeat("r", 300)}, {22, ""}}
	cert := issue(t, a, testRequest(t, p256(t)))
	var got []int
	for _, e := range cert.Extensions {
		if n := fulcioNumber(e.Id); n > 0 {
			got = append(got, n)
		}
	}
	if want := []int{1, 2, 8, 12, 21, 24}; !slices.Equal(got, want) {
		t.Errorf("extensions %v, want %v", got, want)
	}
}

func TestIssueRefusesExtensionsThatPolicyMayNotDecide(t *testing.T) {
	for _, e := range [][]Extension{{{1, "x"}}, {{7, "x"}}, {{8, "x"}}, {{24, "x"}}, {{25, "x"}}, {{0, "x"}}, {{9, "x"}, {9, "y"}}} {
		a := newTestAuthority(t, nil)
		a.decision.Extensions = e
		_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
		wantRefusal(t, err, KindInternal, ReasonInternal)
		if n := a.pki.key.count(); n != 0 {
			t.Errorf("%v: %d signatures were made", e, n)
		}
	}
}

func TestIssueRefusesUnloggedCertificate(t *testing.T) {
	a := newTestAuthority(t, nil)
	a.log.submit = func(Submission) error { return errors.New("down") }
	_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
	wantRefusal(t, err, KindUnavailable, ReasonLogFailed)
	if n := a.pki.key.count(); n != 1 {
		t.Errorf("%d signatures, want that of the precertificate alone", n)
	}
	if len(a.recorder.open) != 0 || len(a.recorder.outcomes) != 1 || a.recorder.outcomes[0].Err == nil {
		t.Errorf("open intents %d, outcomes %+v: want the one intent closed as failed", len(a.recorder.open), a.recorder.outcomes)
	}
}

func TestIssueAsksEverybodyBeforeItSigns(t *testing.T) {
	down := errors.New("down")
	for _, tc := range []struct {
		name   string
		spoil  func(*testAuthority)
		reason Reason
	}{
		{"log", func(a *testAuthority) { a.log.ready = down }, ReasonLogFailed},
		{"recorder", func(a *testAuthority) { a.recorder.ready = down }, ReasonAuditFailed},
		{"recorder at the intent", func(a *testAuthority) { a.recorder.failIntent = down }, ReasonAuditFailed},
		{"signer", func(a *testAuthority) { a.pki.key.ready = down }, ReasonSignerFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newTestAuthority(t, nil)
			tc.spoil(a)
			_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
			wantRefusal(t, err, KindUnavailable, tc.reason)
			if n := a.pki.key.count(); n != 0 || a.log.size() != 0 {
				t.Errorf("%d signatures, %d log entries; want none", n, a.log.size())
			}
			if AsRefusal(err).Uncertain {
				t.Error("it is uncertain whether there is a certificate; nothing was signed")
			}
		})
	}
}

// Only the log knows when asking it again makes sense.
func TestIssueTellsWhenTheLogMayBeAskedAgain(t *testing.T) {
	a := newTestAuthority(t, nil)
	a.log.ready = &Refusal{Kind: KindUnavailable, Reason: ReasonLogFailed, RetryAfter: 7 * time.Second}
	_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
	wantRefusal(t, err, KindUnavailable, ReasonLogFailed)
	if got := AsRefusal(err).RetryAfter; got != 7*time.Second {
		t.Errorf("retry after %v, want 7s", got)
	}
}

func TestIssueNeverReleasesABrokenSignature(t *testing.T) {
	for n := 1; n <= 2; n++ {
		a := newTestAuthority(t, nil)
		a.pki.key.sign = func(i int, digest []byte) ([]byte, error) {
			if i != n {
				return nil, nil
			}
			other := sha256.Sum256(digest)
			return a.pki.key.Signer.Sign(rand.Reader, other[:], crypto.SHA256)
		}
		_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
		wantRefusal(t, err, KindUnavailable, ReasonSignerFailed)
		if a.log.size() != n-1 {
			t.Errorf("signature %d broken: %d log entries, want %d", n, a.log.size(), n-1)
		}
		if o := a.recorder.outcomes; len(o) != 1 || o[0].Err == nil || o[0].CertificateHash != [32]byte{} {
			t.Errorf("signature %d broken: outcomes %+v", n, o)
		}
	}
}

func TestIssueWithholdsTheCertificateWhenTheOutcomeCannotBeRecorded(t *testing.T) {
	a := newTestAuthority(t, nil)
	a.recorder.failDone = errors.New("disk")
	cert, err := a.Issue(t.Context(), testRequest(t, p256(t)))
	wantRefusal(t, err, KindUnavailable, ReasonAuditFailed)
	if cert.DER != nil {
		t.Error("a certificate was returned all the same")
	}
	if !AsRefusal(err).Uncertain {
		t.Error("a certificate was signed, and the refusal does not say so")
	}
}

func TestIssueRefusesATokenThatExpiredWhileWaiting(t *testing.T) {
	a := newTestAuthority(t, nil)
	r := testRequest(t, p256(t))
	a.now = r.Identity.Token.UsableUntil
	_, err := a.Issue(t.Context(), r)
	wantRefusal(t, err, KindInvalid, ReasonExpired)
	if n := a.pki.key.count(); n != 0 {
		t.Errorf("%d signatures were made", n)
	}
}

func TestIssueStopsWhileTheClockStandsBeforeTheLastRecord(t *testing.T) {
	a := newTestAuthority(t, nil)
	a.recorder.last = testTime.Add(time.Nanosecond)
	_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
	wantRefusal(t, err, KindUnavailable, ReasonClock)
	if n := a.pki.key.count(); n != 0 || a.Ready()["clock"] == nil {
		t.Errorf("%d signatures, readiness of the clock %v; want none and a complaint", n, a.Ready()["clock"])
	}
	a.now = a.recorder.last
	if _, err := a.Issue(t.Context(), testRequest(t, p256(t))); err != nil {
		t.Errorf("once the clock is right again: %v", err)
	}
}

func TestIssueClosesTheIntentOfAClientThatLeft(t *testing.T) {
	a := newTestAuthority(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	a.log.submit = func(Submission) error { cancel(); return ctx.Err() }
	_, err := a.Issue(ctx, testRequest(t, p256(t)))
	wantRefusal(t, err, KindUnavailable, ReasonDeadline)
	if len(a.recorder.open) != 0 || len(a.recorder.outcomes) != 1 {
		t.Errorf("open intents %d, outcomes %d", len(a.recorder.open), len(a.recorder.outcomes))
	}
}

func TestIssueRecordsRefusalsOfPolicy(t *testing.T) {
	a := newTestAuthority(t, nil)
	a.policy = Refuse(KindDenied, ReasonPolicy, "no rule matched")
	_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
	wantRefusal(t, err, KindDenied, ReasonPolicy)
	if len(a.recorder.refused) != 1 || a.recorder.next != 0 {
		t.Errorf("refusals %d, intents %d; want 1 and 0", len(a.recorder.refused), a.recorder.next)
	}
}

func TestIssueRefusesKeysOutsideTheProfile(t *testing.T) {
	a := newTestAuthority(t, func(c *Config) {
		c.Profiles = []Profile{{Name: "default", Lifetime: 5 * time.Minute, Keys: []KeyKind{"ecdsa-p384"}}}
	})
	_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
	wantRefusal(t, err, KindInvalid, ReasonKeyNotAllowed)
}

func TestIssueWithLoggingDisabledMakesAPlainCertificate(t *testing.T) {
	a := newTestAuthority(t, func(c *Config) { c.Log, c.WithoutLog = nil, true })
	cert, err := a.Issue(t.Context(), testRequest(t, p256(t)))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(cert.DER)
	if err != nil {
		t.Fatal(err)
	}
	if cert.HasSCT() || len(parsed.Extensions) != 8 {
		t.Errorf("has SCT %v, %d extensions; want none and 8", cert.HasSCT(), len(parsed.Extensions))
	}
}

func TestNewRefusesMissingParts(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"policy":                   func(c *Config) { c.Policy = nil },
		"recorder":                 func(c *Config) { c.Recorder = nil },
		"log":                      func(c *Config) { c.Log = nil },
		"log and logging disabled": func(c *Config) { c.WithoutLog = true },
		"chain":                    func(c *Config) { c.Chains = nil },
		"chains of one name":       func(c *Config) { c.Chains = append(c.Chains, c.Chains[0]) },
		"profile too long":         func(c *Config) { c.Profiles = []Profile{{Name: "x", Lifetime: 11 * time.Minute}} },
		"profile back-dated": func(c *Config) {
			c.Profiles = []Profile{{Name: "x", Lifetime: 5 * time.Minute, Backdate: 2 * time.Minute}}
		},
	} {
		p := newPKI(t, p256(t), nil)
		cfg := Config{
			Chains: []*Chain{p.chain(t)}, Log: &memLog{t: t}, Recorder: &memRecorder{t: t},
			Policy: func(context.Context, Request) (Decision, error) { return Decision{}, nil },
		}
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: New accepted the configuration", name)
		}
	}
}

func TestIssueConcurrently(t *testing.T) {
	a := newTestAuthority(t, nil)
	r := testRequest(t, p256(t))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := a.Issue(t.Context(), r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := a.log.size(); got != 160 || len(a.recorder.outcomes) != 160 || len(a.recorder.open) != 0 {
		t.Errorf("log entries %d, outcomes %d, open intents %d; want 160, 160, 0", got, len(a.recorder.outcomes), len(a.recorder.open))
	}
}

func TestClockGuardNoticesAClockThatWasSet(t *testing.T) {
	if err := (clockGuard{time.Now()}).check(time.Now()); err != nil {
		t.Errorf("an ordinary reading is refused: %v", err)
	}
	for _, tc := range []struct {
		wall, monotonic time.Duration
		ok              bool
	}{
		{time.Hour, time.Hour, true},
		{time.Hour + 30*time.Second, time.Hour, true},
		{time.Hour + 31*time.Second, time.Hour, false},
		{time.Hour - 31*time.Second, time.Hour, false},
		{-time.Hour, time.Minute, false},
	} {
		if err := checkJump(tc.wall, tc.monotonic); (err == nil) != tc.ok {
			t.Errorf("wall %v, monotonic %v: got %v, want ok %v", tc.wall, tc.monotonic, err, tc.ok)
		}
	}
}

// The zero key is no proven key, whatever a profile allows.
func TestIssueRefusesTheZeroKey(t *testing.T) {
	a := newTestAuthority(t, nil)
	r := testRequest(t, p256(t))
	r.Key = ProvenKey{}
	_, err := a.Issue(t.Context(), r)
	wantRefusal(t, err, KindInternal, ReasonInternal)
	if n := a.pki.key.count(); n != 0 || a.recorder.next != 0 {
		t.Errorf("%d signatures, %d intents; want none", n, a.recorder.next)
	}
}

// A bug in a key or log is the caller's to report, but it must not look in the
// journal as if the process had died.
func TestIssueClosesTheIntentWhenALogPanics(t *testing.T) {
	a := newTestAuthority(t, nil)
	a.log.submit = func(Submission) error { panic("a bug") }
	func() {
		defer func() {
			if v := recover(); v != "a bug" {
				t.Errorf("recovered %v, want the log's panic", v)
			}
		}()
		_, err := a.Issue(t.Context(), testRequest(t, p256(t)))
		t.Errorf("Issue returned %v, want a panic", err)
	}()
	o := a.recorder.outcomes
	if len(a.recorder.open) != 0 || len(o) != 1 || o[0].Err == nil || o[0].Err.Kind != KindInternal || o[0].CertificateHash != [32]byte{} {
		t.Errorf("open intents %d, outcomes %+v; want the one intent closed as not issued", len(a.recorder.open), o)
	}
}

// Wherever the client leaves, the intent is closed, and a certificate that came
// to be is recorded as issued although nobody may have read it.
func TestIssueClosesTheIntentWhereverTheClientLeaves(t *testing.T) {
	for _, tc := range []struct {
		name                        string
		issued                      bool
		signatures, entries, leaves int
	}{
		{"while the precertificate is signed", false, 1, 0, 1},
		{"when the log has answered", false, 1, 1, 0},
		{"while the certificate is signed", true, 2, 1, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			a := newTestAuthority(t, func(c *Config) {
				if tc.leaves == 0 {
					c.Log = &leavingLog{c.Log, leave}
				}
			})
			a.pki.key.sign = func(n int, _ []byte) ([]byte, error) {
				if n == tc.leaves {
					leave()
				}
				return nil, nil
			}
			_, err := a.Issue(ctx, testRequest(t, p256(t)))
			o := a.recorder.outcomes
			if len(a.recorder.open) != 0 || len(o) != 1 || (o[0].Err == nil) != tc.issued || (err == nil) != tc.issued {
				t.Errorf("error %v, open intents %d, outcomes %+v; want one outcome, issued %v", err, len(a.recorder.open), o, tc.issued)
			}
			if a.log.size() != tc.entries || a.pki.key.count() != tc.signatures {
				t.Errorf("%d log entries, %d signatures; want %d and %d", a.log.size(), a.pki.key.count(), tc.entries, tc.signatures)
			}
		})
	}
}

// leavingLog answers well, and the client leaves meanwhile.
type leavingLog struct {
	Log
	leave func()
}

func (l *leavingLog) Submit(ctx context.Context, s Submission) (SCT, error) {
	defer l.leave()
	return l.Log.Submit(ctx, s)
}

// The reading that a certificate's validity starts from may have been taken
// while the clock was wrong, and the check made when it was right again.
func TestIssueRefusesARequestReadByAWrongClock(t *testing.T) {
	for _, wrong := range []time.Duration{-time.Hour, -31 * time.Second, 31 * time.Second, time.Hour} {
		a := newTestAuthority(t, nil)
		r := testRequest(t, p256(t))
		r.Time = r.Time.Add(wrong)
		_, err := a.Issue(t.Context(), r)
		wantRefusal(t, err, KindUnavailable, ReasonClock)
		if n := a.pki.key.count(); n != 0 {
			t.Errorf("read %v wrong: %d signatures were made", wrong, n)
		}
	}
	a := newTestAuthority(t, nil)
	r := testRequest(t, p256(t))
	r.Time = r.Time.Add(-4 * time.Second) // as long as the server lets a request take
	if _, err := a.Issue(t.Context(), r); err != nil {
		t.Errorf("a request that waited: %v", err)
	}
}
