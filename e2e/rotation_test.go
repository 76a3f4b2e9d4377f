package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rotation is an organization that goes from a key in a file to one in a token,
// with two replicas.
type rotation struct {
	*world
	a, b    *replica
	load    *signers
	log     *remoteLog
	old     string // issuing CA of corp-2026
	next    string // issuing CA of corp-2027
	saved   map[string][]byte
	saveDir string
}

const (
	oldChain = "  - {name: corp-2026, certificates: corp-2026.pem, key: {file: %s, passphrase_file: %s}}\n"
	// As docs/rotation.md has it: the key is gone, and the chain with it but for
	// those who verify.
	oldRetired = "  - {name: corp-2026, certificates: corp-2026.pem, retire: %s}\n"
	nextChain  = "  - {name: corp-2027, certificates: corp-2027.pem, key: {tokens: [hsm-a], object: corp-2027}, activate: %s, emergency: true}\n"
	// lead is from the decision to the activation; both replicas must have
	// published by then.
	lead = 15 * time.Second
)

// TestRotationWithTwoReplicas replaces the CA key while clients sign and verify
// all the time, with whatever trust files are published at that moment: no
// request fails, and what was signed before verifies until the operator takes
// the old chain away.
func TestRotationWithTwoReplicas(t *testing.T) {
	r := newRotation(t)
	r.agree(t, "1-before", 1, "signs with corp-2026", "corp-2026: signing")

	r.certifyNext(t)
	at := time.Now().Add(lead).Truncate(time.Second)
	both := r.oldEntry() + fmt.Sprintf(nextChain, at.UTC().Format(time.RFC3339))
	// One replica has the new file first, as happens in a cluster.
	r.a.volume.mount(t, r.files(t, both))
	r.a.awaitStatus(t, lead, "corp-2027: published")
	r.b.volume.mount(t, r.files(t, both))
	r.b.awaitStatus(t, lead, "corp-2027: published")
	if now := time.Now(); now.After(at.Add(-time.Second)) {
		t.Fatalf("both replicas had published at %v, for an activation at %v: the machine is too slow for this test", now, at)
	}
	r.agree(t, "2-published", 2, "signs with corp-2026", "corp-2027: published")

	r.awaitSignatures(t, r.next)
	r.agree(t, "3-active", 2, "signs with corp-2027", "corp-2026: superseded", "corp-2027: signing")
	r.checkBrokenFile(t, both)

	retired := fmt.Sprintf(oldRetired, time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)) + strings.TrimPrefix(both, r.oldEntry())
	r.mount(t, r.files(t, retired), "corp-2026: retired")
	for _, one := range []*replica{r.a, r.b} {
		one.checkReload(t, true)
	}
	if err := os.Remove(r.pki.file("corp.key")); err != nil {
		t.Fatal(err)
	}
	r.awaitSignatures(t, r.next)
	r.agree(t, "5-retired", 2, "signs with corp-2027", "corp-2026: retired")

	r.load.forget.Store(true)
	last := r.files(t, strings.TrimPrefix(both, r.oldEntry()))
	delete(last, "corp-2026.pem")
	r.load.checkFirst(t, r, "")
	r.mount(t, last, "corp-2027: signing")
	r.awaitChains(t, 1)
	r.agree(t, "6-removed", 1, "signs with corp-2027")
	r.load.checkFirst(t, r, "leaf certificate verification failed")
	r.checkLoad(t)
}

func newRotation(t *testing.T) *rotation {
	t.Helper()
	r := &rotation{
		world: &world{pki: newPKI(t), dir: t.TempDir()}, log: newRemoteLog(t), saved: make(map[string][]byte), saveDir: t.ArtifactDir(),
		old: "Example Corp Code Signing CA", next: chainSubject("corp-2027"),
	}
	r.issuer, r.http = newIssuer(t, r.pki), r.client(t)
	makeToken(t, r.dir)
	// Clients reach both replicas under one name, which is never asked here.
	r.url = "https://ca.corp.example"
	files := r.files(t, r.oldEntry())
	r.a, r.b = startReplica(t, r.world, "a", files), startReplica(t, r.world, "b", files)
	r.load = startSigners(t, 2, r.a, r.b)
	r.awaitSignatures(t, r.old)
	return r
}

func (r *rotation) oldEntry() string {
	return fmt.Sprintf(oldChain, r.pki.file("corp.key"), r.pki.file("passphrase"))
}

// files are what a ConfigMap has: the configuration and the certificates.
func (r *rotation) files(t testing.TB, chains string) map[string]string {
	t.Helper()
	files := map[string]string{
		"corp-2026.pem": string(readFile(t, r.pki.file(chainFile))),
		"mayfly.yaml": fmt.Sprintf(`listen: {tls: {certificate: %s, key: %s}}
public_url: %s
state: never-used
limits: {%s}
%stokens:
  - {name: hsm-a, module: %s, label: %s, pin_file: %s}
chains:
%slogs:
  - {name: far, remote: {url: %s, public_key: %s}}
`, r.pki.file("tls.crt"), r.pki.file("tls.key"), r.url, noLimits, r.issuers(), softHSM, tokenName, filepath.Join(r.dir, "hsm.pin"),
			chains, r.log.url, r.log.publicKey),
	}
	if next, err := os.ReadFile(r.pki.file("corp-2027.pem")); err == nil {
		files["corp-2027.pem"] = string(next)
	}
	return files
}

// certifyNext makes the next key in the token and has the organization sign its
// request, while the services run.
func (r *rotation) certifyNext(t testing.TB) {
	t.Helper()
	config := writeFile(t, filepath.Join(r.dir, "next.yaml"), r.files(t, r.oldEntry()+fmt.Sprintf(nextChain, "2027-01-01T00:00:00Z"))["mayfly.yaml"])
	r.certifyToken(t, config, "corp-2027", "ecdsa-p384", "next.crt")
	r.pki.concatenate(t, "corp-2027.pem", "next.crt", rootFile)
}

// mount brings files to both replicas and waits until both say a word.
func (r *rotation) mount(t testing.TB, files map[string]string, word string) {
	t.Helper()
	for _, one := range []*replica{r.a, r.b} {
		one.volume.mount(t, files)
	}
	for _, one := range []*replica{r.a, r.b} {
		one.awaitStatus(t, 10*time.Second, word)
		one.mayfly.await(t, "reload", 10*time.Second, func() error {
			if body := one.mustGet(t, "/readyz"); !bytes.Contains(body, []byte(`"config":true`)) {
				return fmt.Errorf("/readyz says %s", body)
			}
			return nil
		})
	}
}

// awaitSignatures waits until both replicas have made ten more with an issuing CA.
func (r *rotation) awaitSignatures(t testing.TB, issuer string) {
	t.Helper()
	for _, one := range []*replica{r.a, r.b} {
		from := r.load.count(one, issuer)
		one.mayfly.await(t, "signatures by "+issuer, 20*time.Second, func() error {
			if n := r.load.count(one, issuer); n < from+10 {
				return fmt.Errorf("%d signatures by %s at replica %s, want %d", n, issuer, one.name, from+10)
			}
			return nil
		})
	}
}

func (r *rotation) awaitChains(t testing.TB, n int) {
	t.Helper()
	for _, one := range []*replica{r.a, r.b} {
		one.mayfly.await(t, "trusted root", 10*time.Second, func() error {
			if got := len(one.trustedRoot(t).FulcioCertificateAuthorities()); got != n {
				return fmt.Errorf("trusted_root.json of replica %s has %d chains, want %d", one.name, got, n)
			}
			return nil
		})
	}
}

// agree saves what clients and administrators are told at a stage, and demands
// that both replicas tell the same, with so many chains and with these words.
func (r *rotation) agree(t *testing.T, stage string, chains int, words ...string) {
	t.Helper()
	r.awaitChains(t, chains)
	for _, path := range []string{"/trust/trusted_root.json", "/trust/signing_config.json", "/api/v2/trustBundle", "/api/v1/rootCert"} {
		of := make(map[string][]byte)
		for _, one := range []*replica{r.a, r.b} {
			of[one.name] = one.mustGet(t, path)
			r.keep(t, stage, one.name, filepath.Base(path), of[one.name])
		}
		if !bytes.Equal(of["a"], of["b"]) {
			t.Errorf("%s: %s of replica a is\n%s\nand of replica b\n%s", stage, path, of["a"], of["b"])
		}
		r.saved[stage+path] = of["a"]
	}
	for _, one := range []*replica{r.a, r.b} {
		status := one.status(t)
		r.keep(t, stage, one.name, "status.txt", []byte(status))
		for _, w := range words {
			if !strings.Contains(status, w) {
				t.Errorf("%s: mayfly ca status of replica %s does not say %q:\n%s", stage, one.name, w, status)
			}
		}
	}
}

// keep keeps a file; go test -artifacts shows where.
func (r *rotation) keep(t testing.TB, stage, replica, name string, text []byte) {
	t.Helper()
	dir := filepath.Join(r.saveDir, stage, replica)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, name), string(text))
}

// checkBrokenFile has both replicas meet a file whose new chain belongs to
// another key, and go on with what they have. It stays on disk until the next one.
func (r *rotation) checkBrokenFile(t *testing.T, chains string) {
	t.Helper()
	broken := r.files(t, chains)
	broken["corp-2027.pem"] = broken["corp-2026.pem"]
	for _, one := range []*replica{r.a, r.b} {
		one.volume.mount(t, broken)
	}
	for _, one := range []*replica{r.a, r.b} {
		one.awaitStatus(t, 10*time.Second, "the files on disk were refused")
		one.checkReload(t, false)
		command{dir: one.dir}.mustFail(t, []string{"is not the one of the certificate", "public key"}, program(t, "E2E_MAYFLY"), append([]string{"reload"}, one.flags...)...)
	}
	r.awaitSignatures(t, r.next)
	r.agree(t, "4-broken", 2, "signs with corp-2027", "the files on disk were refused")
	for _, path := range []string{"/trust/trusted_root.json", "/api/v2/trustBundle"} {
		if before, now := r.saved["3-active"+path], r.saved["4-broken"+path]; !bytes.Equal(before, now) {
			t.Errorf("a file that was refused changed %s from\n%s\nto\n%s", path, before, now)
		}
	}
}

// checkFirst demands that the first signatures, all by the old CA, verify with
// what both replicas publish now, or are refused with these words.
func (s *signers) checkFirst(t *testing.T, r *rotation, refusal string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range []*replica{r.a, r.b} {
		for _, b := range s.first {
			err := verifyWith(one.trustedRoot(t), b, r.issuer.url)
			if refusal != "" {
				refuses(t, "a signature by a chain that is published no more", []string{refusal}, err)
			} else if err != nil {
				t.Errorf("signed by %s at the beginning: %v", bundleIssuer(b), err)
			}
		}
	}
	if len(s.first) == 0 || bundleIssuer(s.first[0]) != r.old {
		t.Errorf("got %d first signatures, want some by %s", len(s.first), r.old)
	}
}

// checkLoad demands that nothing failed, ever, and that both replicas stop in
// order with their journals whole.
func (r *rotation) checkLoad(t *testing.T) {
	t.Helper()
	r.load.end()
	for i, err := range r.load.failures {
		if i == 5 {
			t.Errorf("and %d more", len(r.load.failures)-i)
			break
		}
		t.Errorf("failed while the key was replaced: %v", err)
	}
	t.Logf("signatures by replica and issuing CA: %v", r.load.signed)
	r.a.stopsInOrder(t)
	r.b.stopsInOrder(t)
}
