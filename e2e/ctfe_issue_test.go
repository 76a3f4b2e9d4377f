//go:build full

package e2e

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// recovery bounds how long a log that works again may go unused: Mayfly rests one
// that has failed for half a minute at the most.
const recovery = 40 * time.Second

// newCTFEWorld is Mayfly with CTFE as its first log, and those after it that are
// given.
func newCTFEWorld(t testing.TB, s setting) (*world, *ctfe) {
	t.Helper()
	c := newCTFE(t)
	s.logs = c.entry("ctfe") + s.logs
	w := newWorld(t, s)
	c.start(t, w.pki.file(rootFile))
	return w, c
}

// TestCTFESCTsServeStockClients has every client sign with a certificate that is
// logged at CTFE, and every client verify every signature: SCTs without the
// extension that those of the log in the box have.
func TestCTFESCTsServeStockClients(t *testing.T) {
	w, c := newCTFEWorld(t, setting{tsa: true, profiles: shortLived})
	w.logKey = c.publicKey
	blob := writeFile(t, filepath.Join(w.dir, "release.tar"), "what is released\n")
	var signings []signing
	for _, client := range bundleClients() {
		t.Run("sign/"+client.name, func(t *testing.T) {
			bundle := filepath.Join(w.dir, client.name+".sigstore.json")
			client.sign(t, w, blob, bundle)
			signings = append(signings, signing{client.name, bundle, leafOf(t, bundle)})
		})
	}
	var classic classicSigning
	t.Run("sign/cosign-v2", func(t *testing.T) { classic = signClassic(t, w, blob) })
	if t.Failed() {
		return
	}
	awaitExpiry(t, classic.leaf) // the last to be issued
	for _, client := range bundleClients() {
		for _, s := range signings {
			t.Run("verify/"+client.name+"/of/"+s.client, func(t *testing.T) {
				if err := client.verify(t, w, blob, s.bundle, alice, w.issuer.url); err != nil {
					t.Error(err)
				}
			})
		}
	}
	t.Run("verify/cosign-v2", func(t *testing.T) { verifyClassic(t, w, classic, blob) })
	t.Run("without the log's key", func(t *testing.T) { w.refusedWithoutLog(t, blob, signings[0].bundle) })
	for _, s := range signings {
		if sct := embeddedSCT(t, s.leaf); sct.LogID.KeyID != c.id || len(sct.Extensions) != 0 {
			t.Errorf("the SCT of %s's certificate is of log %x with the extensions %x; want it of CTFE, without", s.client, sct.LogID.KeyID, sct.Extensions)
		}
	}
}

// refusedWithoutLog shows that it is the SCT that counts: with the log's key
// taken out of the trust root, the same signature is refused.
func (w *world) refusedWithoutLog(t *testing.T, blob, path string) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(w.mustGet(t, "/trust/trusted_root.json"), &doc); err != nil {
		t.Fatal(err)
	}
	delete(doc, "ctlogs")
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := root.NewTrustedRootFromJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := verify.NewVerifier(trusted, verify.WithSignedTimestamps(1), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := bundle.LoadJSONFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(readFile(t, blob))
	_, err = verifier.Verify(signed, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest[:]), verify.WithoutIdentitiesUnsafe()))
	refuses(t, "a certificate of a log that is not trusted", []string{"SCT", "signed certificate timestamp"}, err)
}

// embeddedSCT is the one SCT in a certificate.
func embeddedSCT(t testing.TB, leaf *x509.Certificate) *ct.SignedCertificateTimestamp {
	t.Helper()
	scts, err := x509util.ParseSCTsFromCertificate(leaf.Raw)
	if err != nil || len(scts) != 1 {
		t.Fatalf("certificate %x has %d SCTs, want 1 (%v)", leaf.SerialNumber, len(scts), err)
	}
	return scts[0]
}

// logged is a certificate as certificate-transparency-go sees it.
type logged struct {
	chain []*ctx509.Certificate
	sct   *ct.SignedCertificateTimestamp
}

func readLogged(t testing.TB, chain []*x509.Certificate) logged {
	t.Helper()
	l := logged{sct: embeddedSCT(t, chain[0])}
	for _, cert := range chain {
		parsed, err := ctx509.ParseCertificate(cert.Raw)
		if ctx509.IsFatal(err) {
			t.Fatalf("certificate-transparency-go does not read the certificate: %v", err)
		}
		l.chain = append(l.chain, parsed)
	}
	return l
}

// checkIncluded has certificate-transparency-go verify the SCT and prove against
// the newest tree head that the entry is in the log, which may take the signer a
// moment.
func (c *ctfe) checkIncluded(t *testing.T, l logged) {
	t.Helper()
	client := c.client(t)
	log := ctutil.LogInfo{Description: "CTFE", Client: client, Verifier: client.Verifier}
	leaf, err := ct.MerkleTreeLeafForEmbeddedSCT(l.chain, l.sct.Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.VerifySCTSignature(*l.sct, *leaf); err != nil {
		t.Errorf("certificate-transparency-go refuses the SCT: %v", err)
	}
	c.frontend.await(t, "inclusion", 10*time.Second, func() error {
		_, err := log.VerifyInclusion(t.Context(), *leaf, l.sct.Timestamp)
		return err
	})
	// The verification can fail.
	if _, err := log.VerifyInclusion(t.Context(), *leaf, l.sct.Timestamp+1); err == nil {
		t.Error("an entry of another time was proved")
	}
}

// TestCTFEHasWhatWeIssue reads CTFE with certificate-transparency-go's client:
// each certificate is in the log, is there once, and gets the same SCT when its
// precertificate comes again, as it does after an answer was lost. The audit that
// Mayfly does by itself finds each in its journal.
func TestCTFEHasWhatWeIssue(t *testing.T) {
	w, c := newCTFEWorld(t, setting{logs: "log_audit: {interval: 5s}\n"})
	const n = 3
	var all []logged
	for range n {
		l := readLogged(t, w.mustIssue(t, alice))
		c.checkIncluded(t, l)
		all = append(all, l)
	}
	client := c.client(t)
	entries, err := client.GetEntries(t.Context(), 0, n-1)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if e.Precert == nil || len(e.Chain) != 2 {
			t.Fatalf("entry %d is %+v, want a precertificate with issuing CA and root", i, e)
		}
		again, err := client.AddPreChain(t.Context(), append([]ct.ASN1Cert{e.Precert.Submitted}, e.Chain...))
		if err != nil {
			t.Fatalf("submitting entry %d again: %v", i, err)
		}
		if again.Timestamp != all[i].sct.Timestamp {
			t.Errorf("the SCT of entry %d is of %d, and of %d when it was submitted again", i, all[i].sct.Timestamp, again.Timestamp)
		}
	}
	c.checkIncluded(t, readLogged(t, w.mustIssue(t, alice)))
	head, err := client.GetSTH(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if head.TreeSize != n+1 {
		t.Errorf("the tree has %d entries, want one for each of %d certificates", head.TreeSize, n+1)
	}
	w.awaitQuietAudit(t, "ctfe", n+1)
	w.journal(t).checkClosed(t)
}

// TestCTFERefusesOthers holds the example configuration to what it is for.
func TestCTFERefusesOthers(t *testing.T) {
	c := newCTFE(t)
	ours, others := newPKI(t), newPKI(t)
	c.start(t, ours.file(rootFile))
	for _, tc := range []struct {
		name string
		pki  pki
		leaf string
		want string
	}{
		{"a certificate for TLS", ours, "tls.crt", "400"},
		{"a certificate of another root", others, "tsa.crt", "400"},
	} {
		_, err := c.client(t).AddChain(t.Context(), rawChain(t, tc.pki.file(tc.leaf), tc.pki.file(rootFile)))
		refuses(t, tc.name, []string{tc.want}, err)
	}
}

func rawChain(t testing.TB, files ...string) []ct.ASN1Cert {
	t.Helper()
	var chain []ct.ASN1Cert
	for _, file := range files {
		cert, err := parsePEM(readFile(t, file))
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, ct.ASN1Cert{Data: cert.Raw})
	}
	return chain
}

// TestCTFEOutageIsAFast503 takes away CTFE, then its database, and then has
// Trillian hang, below a CA that has no other log.
func TestCTFEOutageIsAFast503(t *testing.T) {
	w, c := newCTFEWorld(t, setting{limits: noLimits})
	w.mustIssue(t, alice)
	c.frontend.kill()
	w.refusesAll(t, "CTFE is killed")
	c.start(t, w.pki.file(rootFile))
	w.issuesAgain(t)

	c.database.interrupt(t)
	w.refusesAll(t, "its database is stopped")
	c.startDatabase(t)
	w.issuesAgain(t)

	c.server.signal(t, syscall.SIGSTOP)
	w.refusesAll(t, "Trillian hangs")
	c.server.signal(t, syscall.SIGCONT)
	w.issuesAgain(t)
	w.journal(t).checkClosed(t)
}

// refusesAll asks often enough to meet the log's failure and the rest that it
// gets afterwards: each answer is a 503 with a time to come back, soon enough for
// every client.
func (w *world) refusesAll(t *testing.T, when string) {
	t.Helper()
	var slowest time.Duration
	for range 50 {
		got, err := w.request(newApplicant(t, alice), w.issuer.token(t, alice, nil))
		if err != nil {
			t.Fatalf("when %s: no answer: %v", when, err)
		}
		if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || got.chain != nil {
			t.Fatalf("when %s, answer is %v with Retry-After %q; want 503 and a time", when, got, got.header.Get("Retry-After"))
		}
		slowest = max(slowest, got.took)
	}
	if slowest > maxRefusal {
		t.Errorf("when %s, a refusal took %v, want at most %v", when, slowest, maxRefusal)
	}
	t.Logf("when %s, the slowest refusal took %v", when, slowest.Round(time.Millisecond))
}

func (w *world) issuesAgain(t *testing.T) {
	t.Helper()
	w.mayfly.await(t, "certificate once the log works", recovery, func() error {
		got, err := w.request(newApplicant(t, alice), w.issuer.token(t, alice, nil))
		if err == nil && got.chain == nil {
			err = fmt.Errorf("refused with %v", got)
		}
		return err
	})
}

// TestCTFEHandsOverToLogInTheBox has the log in the box configured second. It
// gives SCTs while CTFE is away, which clients accept because it is in the trust
// root all along, and none before and after.
func TestCTFEHandsOverToLogInTheBox(t *testing.T) {
	w, c := newCTFEWorld(t, setting{tsa: true, limits: noLimits, logs: fmt.Sprintf("  - {name: %s, embedded: {}}\n", logName)})
	box := w.log(t).id
	if sct := embeddedSCT(t, w.mustIssue(t, alice)[0]); sct.LogID.KeyID != c.id {
		t.Errorf("the first SCT is of log %x, want CTFE, %x", sct.LogID.KeyID, c.id)
	}
	c.frontend.kill()
	blob := writeFile(t, filepath.Join(w.dir, "release.tar"), "what is released\n")
	client, path := sigstoreGo(), filepath.Join(w.dir, "bundle.json")
	client.sign(t, w, blob, path)
	if err := client.verify(t, w, blob, path, alice, w.issuer.url); err != nil {
		t.Error(err)
	}
	leaf := leafOf(t, path)
	if sct := embeddedSCT(t, leaf); sct.LogID.KeyID != box {
		t.Errorf("with CTFE away the SCT is of log %x, want the one in the box, %x", sct.LogID.KeyID, box)
	}
	w.checkLogged(t, leaf)
	w.mustGet(t, "/readyz")

	c.start(t, w.pki.file(rootFile))
	w.mayfly.await(t, "SCT of CTFE", recovery, func() error {
		if sct := embeddedSCT(t, w.mustIssue(t, alice)[0]); sct.LogID.KeyID != c.id {
			return fmt.Errorf("the SCT is of log %x", sct.LogID.KeyID)
		}
		return nil
	})
	w.journal(t).checkClosed(t)
}
