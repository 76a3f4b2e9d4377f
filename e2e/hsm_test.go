package e2e

import (
	"path/filepath"
	"testing"
)

// TestHSMUnderAnOfflineRoot is the way of docs/hsm.md: a key is made inside a
// token, a root that is kept elsewhere signs its request, and what Mayfly issues
// with it is taken by the clients and by everybody who validates certificates,
// with nothing but that root.
func TestHSMUnderAnOfflineRoot(t *testing.T) {
	for _, algorithm := range []string{"ecdsa-p384", "ecdsa-p256", "rsa-3072"} {
		t.Run(algorithm, func(t *testing.T) {
			w := newHSMWorld(t, algorithm)
			blob := writeFile(t, filepath.Join(w.dir, "release.tar"), "what is released\n")
			for _, c := range []bundleClient{cosign3(), sigstoreGo()} {
				t.Run(c.name, func(t *testing.T) { w.checkClient(t, c, blob) })
			}
			t.Run("cosign-v2", func(t *testing.T) { w.checkClassic(t, blob) })
			chain := w.mustIssue(t, alice)
			w.checkLeaf(t, chain[0])
			checkFinal(t, chain[0])
			p := paper{w.pki.file(rootFile), w.pki.file("corp.crt"), writeFile(t, filepath.Join(w.dir, "leaf.pem"), encodePEM(chain[0]))}
			checkValidated(t, p)
			if algorithm == "ecdsa-p384" {
				t.Run("refused", func(t *testing.T) { checkValidatorsRefuse(t, p) })
			}
			w.journal(t).checkClosed(t)
		})
	}
}

// checkClient has a client sign and all verify.
func (w *world) checkClient(t *testing.T, c bundleClient, blob string) {
	bundle := filepath.Join(w.dir, c.name+".sigstore.json")
	c.sign(t, w, blob, bundle)
	leaf := leafOf(t, bundle)
	w.checkLeaf(t, leaf)
	checkFinal(t, leaf)
	for _, verifier := range []bundleClient{cosign3(), sigstoreGo()} {
		if err := verifier.verify(t, w, blob, bundle, alice, w.issuer.url); err != nil {
			t.Errorf("%s does not verify what %s signed: %v", verifier.name, c.name, err)
		}
		refuses(t, "another identity by "+verifier.name, verifier.wrongIdentity, verifier.verify(t, w, blob, bundle, mallory, w.issuer.url))
	}
}

func (w *world) checkClassic(t *testing.T, blob string) {
	s := signClassic(t, w, blob)
	w.checkLeaf(t, s.leaf)
	checkFinal(t, s.leaf)
	if _, err := w.client2(t).run(t, program(t, "E2E_COSIGN2"), "verify-blob", "--certificate", s.certificate, "--signature", s.signature,
		"--insecure-ignore-tlog", "--certificate-identity", alice, "--certificate-oidc-issuer", w.issuer.url, blob); err != nil {
		t.Error(err)
	}
}
