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
	for _, name := range []string{"replica.yaml", "replica-ctfe.yaml"} {
		t.Run(name, func(t *testing.T) {
			config := scaleExample(t, name)
			command{dir: filepath.Dir(config)}.must(t, program(t, "E2E_MAYFLY"), "config", "check", config)
		})
	}
}

// scaleExample copies an example into a directory with what it names, and
// changes only the paths that are not relative to it.
func scaleExample(t testing.TB, name string) string {
	t.Helper()
	p, dir := newPKI(t), t.TempDir()
	copied := func(file, from string) { writeFile(t, filepath.Join(dir, file), string(readFile(t, p.file(from)))) }
	for file, from := range map[string]string{
		"tls.crt": "tls.crt", "tls.key": "tls.key", "replica.crt": "tls.crt", "replica.key": "tls.key",
		"corp-tls-ca.pem": rootFile, "replicas-ca.pem": rootFile,
		"corp-2026.pem": chainFile, "corp-2026.key": "corp.key", "corp-2026.passphrase": "passphrase",
	} {
		copied(file, from)
	}
	for _, log := range []string{"log-local.pub", "log-corp.pub", "ctfe-2027.pub"} {
		der, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, log), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	}
	text := strings.NewReplacer("/var/lib/", t.TempDir()+"/", "/srv/other-disk/", t.TempDir()+"/").
		Replace(string(readFile(t, filepath.Join("..", "deploy", "scale", name))))
	return writeFile(t, filepath.Join(dir, name), text)
}
