package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"
)

// TestScaleExamplesAreAccepted has `mayfly config check` judge the files of
// deploy/scale, with certificates and keys of their names beside them.
func TestScaleExamplesAreAccepted(t *testing.T) {
	p := newPKI(t)
	for _, name := range []string{"replica.yaml", "replica-ctfe.yaml"} {
		t.Run(name, func(t *testing.T) {
			s := newScale(t, p, name)
			command{dir: s.dir}.must(t, program(t, "E2E_MAYFLY"), "config", "check", s.config)
		})
	}
}

// scale is an example of deploy/scale in a directory with what it names.
type scale struct {
	pki         pki
	dir, config string
	states      string // instead of /var/lib
}

// newScale copies an example, and changes only the paths that are not relative to
// it.
func newScale(t testing.TB, p pki, name string) scale {
	t.Helper()
	s := scale{pki: p, dir: t.TempDir(), states: t.TempDir()}
	for file, from := range map[string]string{
		"tls.crt": "tls.crt", "tls.key": "tls.key", "replica.crt": "tls.crt", "replica.key": "tls.key",
		"corp-tls-ca.pem": rootFile, "replicas-ca.pem": rootFile,
		"corp-2026.pem": chainFile, "corp-2026.key": "corp.key", "corp-2026.passphrase": "passphrase",
	} {
		writeFile(t, filepath.Join(s.dir, file), string(readFile(t, p.file(from))))
	}
	for _, log := range []string{"log-local.pub", "log-corp.pub", "ctfe-2027.pub"} {
		writeFile(t, filepath.Join(s.dir, log), newPublicKey(t))
	}
	s.config = writeFile(t, filepath.Join(s.dir, name), string(readFile(t, filepath.Join("..", "deploy", "scale", name))))
	s.replace(t, "/var/lib/", s.states+"/")
	return s
}

// newPublicKey is the PEM of some P-256 key.
func newPublicKey(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (s scale) state(name string) string { return filepath.Join(s.states, name) }

// replace changes texts of the example, each of which it must have.
func (s scale) replace(t testing.TB, oldnew ...string) {
	t.Helper()
	text := string(readFile(t, s.config))
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("%s has no %q", filepath.Base(s.config), oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	writeFile(t, s.config, text)
}
