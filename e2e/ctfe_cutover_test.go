//go:build full

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// TestCTFECutOver moves a CA from the log in the box to CTFE as docs/scale.md
// says: trusted first, then used, then the old log closed. A verifier that
// fetched the trust root before the move accepts what is signed after it, and one
// that fetches it at the end accepts what was signed before.
func TestCTFECutOver(t *testing.T) {
	c := newCTFE(t)
	now := time.Now().UTC()
	trusted := func(name, url, publicKey, more string) string {
		return fmt.Sprintf("trusted_logs:\n  - {name: %s, url: %s, public_key: %s, from: %s%s}\n", name, url, publicKey, now.Add(-time.Hour).Format(time.RFC3339), more)
	}
	box := fmt.Sprintf("  - {name: %s, embedded: {}}\n", logName)
	w := newWorld(t, setting{tsa: true, logs: box + trusted("ctfe", c.url, c.publicKey, "")})
	c.start(t, w.pki.file(rootFile))
	id := w.log(t).id
	before := w.mustGet(t, "/trust/trusted_root.json")
	old := w.signWithLog(t, "old", id)

	w.replaceLogs(t, c.entry("ctfe")+box)
	if err := w.mayfly.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.mayfly.await(t, "SCT of CTFE", 10*time.Second, func() error {
		if sct := embeddedSCT(t, w.mustIssue(t, alice)[0]); sct.LogID.KeyID != c.id {
			return fmt.Errorf("the SCT is of log %x", sct.LogID.KeyID)
		}
		return nil
	})
	signed := w.signWithLog(t, "new", c.id)
	if err := w.verifyWith(t, before, signed); err != nil {
		t.Errorf("who fetched the trust root before the move refuses what was signed after it: %v", err)
	}

	// The log in the box can only go with the process.
	if err := w.mayfly.terminate(t, 10*time.Second); err != nil {
		t.Fatalf("mayfly ended with %v", err)
	}
	w.replaceLogs(t, c.entry("ctfe")+trusted(logName, w.url+"/log/"+logName, w.logKey, ", until: "+time.Now().UTC().Add(time.Minute).Format(time.RFC3339)))
	w.serve(t)
	after := w.mustGet(t, "/trust/trusted_root.json")
	for _, b := range []string{old, signed} {
		if err := w.verifyWith(t, after, b); err != nil {
			t.Errorf("who fetched the trust root after the move refuses %s: %v", filepath.Base(b), err)
		}
	}
	w.journal(t).checkClosed(t)
}

// replaceLogs writes another section of logs, which comes last but for the
// timestamp authorities.
func (w *world) replaceLogs(t testing.TB, logs string) {
	t.Helper()
	text := string(readFile(t, w.config))
	head, rest, ok := strings.Cut(text, "\nlogs:\n")
	_, tail, also := strings.Cut(rest, "timestamp_authorities:")
	if !ok || !also {
		t.Fatalf("the configuration has no logs and timestamp authorities:\n%s", text)
	}
	writeFile(t, w.config, head+"\nlogs:\n"+logs+"timestamp_authorities:"+tail)
	command{dir: w.dir}.must(t, program(t, "E2E_MAYFLY"), "config", "check", w.config)
}

// signWithLog signs, and demands an SCT of the log.
func (w *world) signWithLog(t *testing.T, name string, log [32]byte) string {
	t.Helper()
	path := filepath.Join(w.dir, name+".sigstore.json")
	sigstoreGo().sign(t, w, writeFile(t, w.blob(), "what is released\n"), path)
	if sct := embeddedSCT(t, leafOf(t, path)); sct.LogID.KeyID != log {
		t.Errorf("the SCT of %s is of log %x, want %x", name, sct.LogID.KeyID, log)
	}
	return path
}

func (w *world) blob() string { return filepath.Join(w.dir, "release.tar") }

// verifyWith has sigstore-go and cosign verify a bundle with a trust root.
func (w *world) verifyWith(t *testing.T, trustedRoot []byte, path string) error {
	t.Helper()
	trusted, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return err
	}
	verifier, err := verify.NewVerifier(trusted, verify.WithSignedTimestamps(1), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		return err
	}
	signed, err := bundle.LoadJSONFromPath(path)
	if err != nil {
		return err
	}
	identity, err := verify.NewShortCertificateIdentity(w.issuer.url, "", alice, "")
	if err != nil {
		return err
	}
	blob := strings.NewReader(string(readFile(t, w.blob())))
	if _, err := verifier.Verify(signed, verify.NewPolicy(verify.WithArtifact(blob), verify.WithCertificateIdentity(identity))); err != nil {
		return fmt.Errorf("sigstore-go: %w", err)
	}
	_, err = w.client3().run(t, program(t, "E2E_COSIGN3"), "verify-blob",
		"--trusted-root", writeFile(t, filepath.Join(t.TempDir(), "trusted_root.json"), string(trustedRoot)), "--bundle", path,
		"--use-signed-timestamps", "--insecure-ignore-tlog", "--certificate-identity", alice, "--certificate-oidc-issuer", w.issuer.url, w.blob())
	return err
}
