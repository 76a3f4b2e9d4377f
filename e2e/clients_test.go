package e2e

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const (
	alice   = "alice@corp.example"
	mallory = "mallory@corp.example"
)

// signing is one signature with its bundle in Sigstore's format.
type signing struct {
	client string
	bundle string
	leaf   *x509.Certificate
}

// bundleClient is a client that signs into bundles and verifies those of all
// others.
type bundleClient struct {
	name string
	sign func(t *testing.T, w *world, blob, bundle string)
	// verify returns an error when the client refuses.
	verify func(t *testing.T, w *world, blob, bundle, email, issuer string) error
	// Words of which the client says one when the identity is of another person
	// or provider, the file was changed, or the timestamp is missing and the
	// certificate has expired.
	wrongIdentity, wrongIssuer, tampered, noTimestamp []string
}

func bundleClients() []bundleClient {
	return []bundleClient{cosign3(), npm(), sigstoreGo()}
}

// shortLived makes certificates that are nearly over when they are issued: of
// one minute, fifty seconds lie before. So the tests verify with certificates
// that have really expired, and no clock is faked for it.
const shortLived = "profiles:\n  - {name: default, lifetime: 60s, backdate: 50s}\n"

// TestStockClientsSignAndVerify has every client sign while its certificate is
// valid, and every client verify every signature after the certificates have
// expired: that is what the timestamp is for.
func TestStockClientsSignAndVerify(t *testing.T) {
	w := newWorld(t, setting{tsa: true, profiles: shortLived})
	blob := writeFile(t, filepath.Join(w.dir, "release.tar"), "what is released\n")
	clients := bundleClients()
	var signings []signing
	for _, c := range clients {
		t.Run("sign/"+c.name, func(t *testing.T) {
			bundle := filepath.Join(w.dir, c.name+".sigstore.json")
			c.sign(t, w, blob, bundle)
			leaf := leafOf(t, bundle)
			w.checkLeaf(t, leaf)
			if err := c.verify(t, w, blob, bundle, alice, w.issuer.url); err != nil {
				t.Errorf("verifying what was signed a moment before: %v", err)
			}
			signings = append(signings, signing{c.name, bundle, leaf})
		})
	}
	var classic classicSigning
	t.Run("sign/cosign-v2", func(t *testing.T) {
		classic = signClassic(t, w, blob)
		w.checkLeaf(t, classic.leaf)
	})
	if t.Failed() {
		return
	}
	for _, s := range signings {
		awaitExpiry(t, s.leaf)
	}
	awaitExpiry(t, classic.leaf)
	for _, c := range clients {
		for _, s := range signings {
			t.Run("verify/"+c.name+"/of/"+s.client, func(t *testing.T) { checkVerifier(t, w, c, s, blob) })
		}
	}
	t.Run("verify/cosign-v2", func(t *testing.T) { verifyClassic(t, w, classic, blob) })
}

// checkVerifier demands that the good signature is accepted and each bad one
// refused for its own reason.
func checkVerifier(t *testing.T, w *world, c bundleClient, s signing, blob string) {
	t.Helper()
	if err := c.verify(t, w, blob, s.bundle, alice, w.issuer.url); err != nil {
		t.Errorf("verifying after the certificate has expired: %v", err)
	}
	refuses(t, "another identity", c.wrongIdentity, c.verify(t, w, blob, s.bundle, mallory, w.issuer.url))
	refuses(t, "another provider", c.wrongIssuer, c.verify(t, w, blob, s.bundle, alice, w.issuer.url+"/"))
	changed := writeFile(t, filepath.Join(t.TempDir(), "changed"), "what is released!\n")
	refuses(t, "a changed file", c.tampered, c.verify(t, w, changed, s.bundle, alice, w.issuer.url))
	refuses(t, "a bundle without its timestamp", c.noTimestamp, c.verify(t, w, blob, withoutTimestamp(t, s.bundle), alice, w.issuer.url))
}

// awaitExpiry waits for a time that is known, at most ten seconds ahead.
func awaitExpiry(t *testing.T, leaf *x509.Certificate) {
	t.Helper()
	left := time.Until(leaf.NotAfter.Add(time.Second)) // notAfter itself is still valid
	if left > 15*time.Second {
		t.Fatalf("certificate is valid for another %v; want a profile that ends soon", left)
	}
	select {
	case <-time.After(left):
	case <-t.Context().Done():
	}
}

// leafOf reads the certificate out of a bundle: alone, as version 0.3 has it,
// or at the head of a chain.
func leafOf(t testing.TB, bundle string) *x509.Certificate {
	t.Helper()
	type certificate struct {
		RawBytes []byte `json:"rawBytes"`
	}
	var b struct {
		Material struct {
			Certificate certificate `json:"certificate"`
			Chain       struct {
				Certificates []certificate `json:"certificates"`
			} `json:"x509CertificateChain"`
		} `json:"verificationMaterial"`
	}
	if err := json.Unmarshal(readFile(t, bundle), &b); err != nil {
		t.Fatalf("reading %s: %v", bundle, err)
	}
	der := b.Material.Certificate.RawBytes
	if chain := b.Material.Chain.Certificates; len(chain) > 0 {
		der = chain[0].RawBytes
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("reading the certificate of %s: %v", bundle, err)
	}
	return leaf
}

// withoutTimestamp copies a bundle and leaves out its timestamps.
func withoutTimestamp(t testing.TB, bundle string) string {
	t.Helper()
	var b map[string]any
	if err := json.Unmarshal(readFile(t, bundle), &b); err != nil {
		t.Fatal(err)
	}
	material, ok := b["verificationMaterial"].(map[string]any)
	if !ok || material["timestampVerificationData"] == nil {
		t.Fatalf("%s has no timestamp to leave out", bundle)
	}
	delete(material, "timestampVerificationData")
	out, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, filepath.Join(t.TempDir(), "bundle.json"), string(out))
}

// tokenFile writes a fresh token for alice, without a final newline: cosign
// puts the file as it is into a header.
func (w *world) tokenFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(w.issuer.token(t, alice, nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
