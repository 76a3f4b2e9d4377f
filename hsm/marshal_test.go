package hsm

import (
	"bytes"
	"crypto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A new key is read by LoadFile and by OpenSSL, and by nobody without the
// passphrase.
func TestGenerateFileKeyIsReadBack(t *testing.T) {
	for _, algorithm := range []string{"ecdsa-p384", "rsa-3072"} {
		dir := t.TempDir()
		file, pass, wrong := filepath.Join(dir, "key"), filepath.Join(dir, "pass"), filepath.Join(dir, "wrong")
		key, text, err := GenerateFileKey(algorithm, []byte("correct horse battery"))
		if err != nil {
			t.Fatalf("GenerateFileKey(%s) = %v", algorithm, err)
		}
		for name, data := range map[string][]byte{file: text, pass: []byte("correct horse battery\n"), wrong: []byte("wrong horse battery")} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		k, err := LoadFile(FileConfig{Path: file, PassphraseFile: pass})
		if err != nil {
			t.Fatalf("LoadFile of a new %s key: %v", algorithm, err)
		}
		if p, ok := k.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(key.Public()) {
			t.Errorf("%s: LoadFile reads another key", algorithm)
		}
		if algorithm == "ecdsa-p384" { // once: the derivation is slow on purpose
			if _, err := LoadFile(FileConfig{Path: file, PassphraseFile: wrong}); err == nil {
				t.Errorf("%s: the wrong passphrase opens the key", algorithm)
			}
		}
		out, err := exec.CommandContext(t.Context(), "openssl", "pkey", "-in", file, "-passin", "file:"+pass, "-noout", "-check").CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("Key is valid")) {
			t.Errorf("%s: openssl pkey -check: %v\n%s", algorithm, err, out)
		}
	}
}

func TestGenerateFileKeyRefuses(t *testing.T) {
	for _, c := range []struct{ algorithm, passphrase, want string }{
		{"ecdsa-p384", "", "a passphrase of 0 characters"},
		{"ecdsa-p384", "short", "a passphrase of 5 characters"},
		{"ed25519", "correct horse battery", "unknown algorithm"},
		{"ecdsa-p521", "correct horse battery", "unknown algorithm"},
		{"rsa-2048", "correct horse battery", "unknown algorithm"},
	} {
		if _, _, err := GenerateFileKey(c.algorithm, []byte(c.passphrase)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("GenerateFileKey(%q, %q) = %v, want an error with %q", c.algorithm, c.passphrase, err, c.want)
		}
	}
}
