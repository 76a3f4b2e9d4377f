package e2e

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	softHSM   = "/usr/lib/softhsm/libsofthsm2.so"
	tokenPIN  = "24681357"
	tokenName = "mayfly"
)

// makeToken makes an empty token of SoftHSM for everything that runs with home
// as its home directory, where SoftHSM looks for its configuration. It returns
// the directory that is the token.
func makeToken(t testing.TB, home string) string {
	t.Helper()
	tokens := filepath.Join(home, "tokens")
	conf := filepath.Join(home, ".config", "softhsm2")
	for _, dir := range []string{tokens, conf} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(conf, "softhsm2.conf"), "directories.tokendir = "+tokens+"\nlog.level = ERROR\n")
	writeFile(t, filepath.Join(home, "hsm.pin"), tokenPIN+"\n")
	command{dir: home}.must(t, "softhsm2-util", "--init-token", "--free", "--label", tokenName, "--so-pin", "13572468", "--pin", tokenPIN)
	return tokens
}

// newHSMWorld is newWorld for a key that is made inside a token, under a root
// that Mayfly never sees the key of: what docs/hsm.md tells to do, with the
// organization's own openssl ca.
func newHSMWorld(t testing.TB, algorithm string) *world {
	t.Helper()
	w := &world{pki: newPKI(t), dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state")}
	w.issuer = newIssuer(t, w.pki)
	w.http = w.client(t)
	makeToken(t, w.dir)
	w.startTSA(t)
	port, metrics := freePort(t), freePort(t)
	w.url, w.metrics = fmt.Sprintf("https://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d/metrics", metrics)
	w.config = writeFile(t, filepath.Join(w.dir, "mayfly.yaml"), fmt.Sprintf(`listen:
  address: "127.0.0.1:%d"
  tls: {certificate: %s, key: %s}
public_url: %s
metrics: "127.0.0.1:%d"
state: %s
limits: {%s}
%stokens:
  - {name: hsm-a, module: %s, label: %s, pin_file: hsm.pin}
chains:
  - {name: corp-2026, certificates: %s, key: {tokens: [hsm-a], object: corp-2026}}
timestamp_authorities:
  - {url: %s, certificates: %s}
logs:
  - {name: %s, embedded: {checkpoint_record: %s}}
`, port, w.pki.file("tls.crt"), w.pki.file("tls.key"), w.url, metrics, w.state, noLimits, w.issuers(),
		softHSM, tokenName, w.pki.file(chainFile), w.tsaURL, w.pki.file(tsaChainFile), logName, filepath.Join(w.dir, "checkpoint-record")))
	w.certifyToken(t, w.config, "corp-2026", algorithm, "corp.crt")
	w.pki.concatenate(t, chainFile, "corp.crt", rootFile)
	w.prepare(t, true)
	w.serve(t)
	return w
}

// issuers is the section about the test's OpenID provider.
func (w *world) issuers() string {
	return fmt.Sprintf(`issuers:
  - name: keycloak
    url: %s
    audiences: [sigstore]
    ca_file: %s
    allow: all
    san: email
    may_issue: {email_domains: [corp.example]}
`, w.issuer.url, w.pki.file(rootFile))
}

// certifyToken has a key made in the token and its request signed by the
// organization's root into a file of the PKI, after the digest of the key was
// compared: that is all which passes between the two.
func (w *world) certifyToken(t testing.TB, config, chain, algorithm, certificate string) {
	t.Helper()
	transcript, request := filepath.Join(t.TempDir(), "keygen.txt"), w.pki.file(chain+".csr")
	command{dir: w.dir}.must(t, program(t, "E2E_MAYFLY"), "hsm", "keygen", "--config", config, "--chain", chain, "--algorithm", algorithm,
		"--transcript", transcript, "--csr", request, "--subject", "CN="+chainSubject(chain)+",O=Example Corp")
	offline := command{dir: w.pki.dir}
	der := filepath.Join(t.TempDir(), "key.der")
	offline.must(t, "openssl", "pkey", "-pubin", "-outform", "DER", "-out", der,
		"-in", writeFile(t, filepath.Join(t.TempDir(), "key.pem"), offline.must(t, "openssl", "req", "-verify", "-in", request, "-noout", "-pubkey")))
	digest := sha256.Sum256(readFile(t, der))
	if text := string(readFile(t, transcript)); !strings.Contains(text, "public sha256    "+hex.EncodeToString(digest[:])+"\n") {
		t.Fatalf("the request's key has the digest %x, the transcript says\n%s", digest, text)
	}
	now := time.Now().UTC()
	offline.must(t, "openssl", "ca", "-config", "openssl.cnf", "-batch", "-notext", "-rand_serial", "-extensions", "signing",
		"-in", request, "-out", certificate, "-startdate", asn1Time(now.AddDate(0, 0, -1)), "-enddate", asn1Time(now.AddDate(1, 0, 0)),
		"-cert", rootFile, "-keyfile", "root.key")
}

func chainSubject(chain string) string { return "Example Corp Code Signing CA " + chain }

// Object identifiers of RFC 6962, Sections 3.1 and 3.3.
const (
	oidPoison = "1.3.6.1.4.1.11129.2.4.3"
	oidSCTs   = "1.3.6.1.4.1.11129.2.4.2"
)

// checkFinal demands that a certificate is no precertificate any more: a poison
// that stayed would be refused by everybody, one SCT is what clients want.
func checkFinal(t testing.TB, leaf *x509.Certificate) {
	t.Helper()
	count := map[string]int{}
	for _, e := range leaf.Extensions {
		count[e.Id.String()]++
	}
	if count[oidPoison] != 0 || count[oidSCTs] != 1 || len(leaf.UnhandledCriticalExtensions) != 0 {
		t.Errorf("certificate has %d poisons, %d SCT lists and the unhandled critical extensions %v; want 0, 1 and none",
			count[oidPoison], count[oidSCTs], leaf.UnhandledCriticalExtensions)
	}
}
