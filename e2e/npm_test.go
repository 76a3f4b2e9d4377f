package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// npm is the sigstore package that npm itself signs provenance with.
func npm() bundleClient {
	node := func(t *testing.T, w *world, args ...string) (string, error) {
		t.Helper()
		script := filepath.Join(program(t, "E2E_NPM"), "client.mjs")
		return command{dir: w.dir, env: w.offline()}.run(t, "node", append([]string{script}, args...)...)
	}
	return bundleClient{
		name: "npm",
		sign: func(t *testing.T, w *world, blob, bundle string) {
			t.Helper()
			// The package adds the path of timestamp queries itself.
			tsa := strings.TrimSuffix(w.tsaURL, "/api/v1/timestamp")
			if _, err := node(t, w, "sign", blob, bundle, w.tokenFile(t), w.url, tsa); err != nil {
				t.Fatal(err)
			}
		},
		verify: func(t *testing.T, w *world, blob, bundle, email, issuer string) error {
			t.Helper()
			_, err := node(t, w, "verify", blob, bundle, w.save(t, "/trust/trusted_root.json", "trusted_root.json"), email, issuer)
			return err
		},
		wrongIdentity: []string{"UNTRUSTED_SIGNER_ERROR"},
		wrongIssuer:   []string{"UNTRUSTED_SIGNER_ERROR"},
		tampered:      []string{"SIGNATURE_ERROR"},
		noTimestamp:   []string{"expected 1 timestamps, got 0"},
	}
}
