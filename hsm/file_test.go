package hsm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/hsm/hsmtest"
)

const passphrase = "correct horse battery staple"

// secret writes text to a file of its own and returns the path.
func secret(t testing.TB, text []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// fixture copies a file of testdata to where its mode can be trusted.
func fixture(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return secret(t, text, 0o600)
}

func pkcs8PEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestFileKeysKeepTheirPromises(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P256": p256, "P384": p384, "RSA2048": rsaKey} {
		t.Run(name, func(t *testing.T) {
			path := secret(t, pkcs8PEM(t, key), 0o600)
			hsmtest.Run(t, func(tb testing.TB) hsm.Key {
				k, err := hsm.LoadFile(hsm.FileConfig{Path: path})
				if err != nil {
					tb.Fatalf("LoadFile: %v", err)
				}
				return k
			})
		})
	}
}

func TestLoadFileReadsWhatOpensslWrites(t *testing.T) {
	for _, c := range []struct {
		file      string
		encrypted bool
		want      string
	}{
		{"sec1-p256.pem", false, "P-256"},
		{"pkcs8-p384.pem", false, "P-384"},
		{"pkcs1-rsa2048.pem", false, "RSA 2048"},
		{"pbkdf2-p256.pem", true, "P-256"},
		{"scrypt-p384.pem", true, "P-384"},
		{"pbkdf2-sha1-rsa3072.pem", true, "RSA 3072"},
	} {
		cfg := hsm.FileConfig{Path: fixture(t, c.file)}
		if c.encrypted {
			cfg.PassphraseFile = fixture(t, "passphrase")
		}
		k, err := hsm.LoadFile(cfg)
		if err != nil {
			t.Errorf("%s: LoadFile: %v", c.file, err)
			continue
		}
		if got := kindOf(k.Public()); got != c.want {
			t.Errorf("%s: loaded a key of kind %s, want %s", c.file, got, c.want)
		}
	}
}

func kindOf(pub crypto.PublicKey) string {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return pub.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", pub.N.BitLen())
	default:
		return fmt.Sprintf("%T", pub)
	}
}

func TestLoadFileRefuses(t *testing.T) {
	good, err := os.ReadFile("testdata/sec1-p256.pem")
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(good, []byte("-----END EC PRIVATE KEY"), []byte("-----END"), 1)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	pass := fixture(t, "passphrase")
	for _, c := range []struct {
		name, path, passphrase, want string
	}{
		{"no path", "", "", "no path"},
		{"missing", filepath.Join(t.TempDir(), "none"), "", "no such file"},
		{"directory", t.TempDir(), "", "not a regular file"},
		{"empty", secret(t, nil, 0o600), "", "no PEM private key"},
		{"huge", secret(t, bytes.Repeat([]byte("x"), 70<<10), 0o600), "", "longer than"},
		{"two keys", secret(t, append(bytes.Clone(good), good...), 0o600), "", "more than one private key"},
		{"damaged PEM", secret(t, damaged, 0o600), "", "damaged PEM"},
		{"certificate beside", secret(t, append(bytes.Clone(good), certificate...), 0o600), "", `"CERTIFICATE"`},
		{"group may read", secret(t, good, 0o640), "", "run chmod 0600 "},
		{"world may read", secret(t, good, 0o604), "", "mode 0604"},
		{"group may write", secret(t, good, 0o620), "", "run chmod 0600 "},
		{"legacy RSA", fixture(t, "legacy-rsa2048.pem"), pass, "openssl pkcs8 -topk8 -v2"},
		{"legacy EC", fixture(t, "legacy-p256.pem"), pass, "openssl pkcs8 -topk8 -v2"},
		{"PBES1", fixture(t, "pbes1-p256.pem"), pass, "openssl pkcs8 -topk8 -v2"},
		{"3DES", fixture(t, "des3-p256.pem"), pass, "only AES in CBC mode"},
		{"PRF SHA-512", fixture(t, "pbkdf2-sha512-p256.pem"), pass, "-v2prf hmacWithSHA256"},
		{"encrypted without passphrase", fixture(t, "pbkdf2-p256.pem"), "", "no passphrase file"},
		{"passphrase without encryption", fixture(t, "sec1-p256.pem"), pass, "not encrypted"},
		{"wrong passphrase", fixture(t, "pbkdf2-p256.pem"), secret(t, []byte("wrong\n"), 0o600), "wrong passphrase"},
		{"empty passphrase", fixture(t, "pbkdf2-p256.pem"), secret(t, []byte("\n"), 0o600), "is empty"},
		{"two lines", fixture(t, "pbkdf2-p256.pem"), secret(t, []byte(passphrase+"\nmore\n"), 0o600), "more than one line"},
		{"open passphrase", fixture(t, "pbkdf2-p256.pem"), secret(t, []byte(passphrase), 0o644), "run chmod 0600 "},
		{"missing passphrase", fixture(t, "pbkdf2-p256.pem"), "/nonexistent/passphrase", "opening passphrase file"},
		{"Ed25519", fixture(t, "ed25519.pem"), "", "ed25519.PrivateKey is not supported"},
		{"P-521", fixture(t, "p521.pem"), "", "P-521 is not supported"},
		{"RSA 1024", fixture(t, "rsa1024.pem"), "", "1024"},
		{"RSA e=3", fixture(t, "rsa-e3.pem"), "", "exponent 3"},
		{"explicit curve", fixture(t, "explicit-p256.pem"), "", "reading key file"},
	} {
		k, err := hsm.LoadFile(hsm.FileConfig{Path: c.path, PassphraseFile: c.passphrase})
		if err == nil {
			t.Errorf("%s: LoadFile = %v, want an error with %q", c.name, k, c.want)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: LoadFile: %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func TestPassphraseLosesOneNewlineOnly(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := pkcs8.MarshalPrivateKey(key, []byte(" with spaces "), nil)
	if err != nil {
		t.Fatal(err)
	}
	path := secret(t, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), 0o600)
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{" with spaces ", true}, {" with spaces \n", true}, {" with spaces \r\n", true},
		{"with spaces", false}, {" with spaces \n\n", false}, {" with spaces", false},
	} {
		_, err := hsm.LoadFile(hsm.FileConfig{Path: path, PassphraseFile: secret(t, []byte(c.text), 0o600)})
		if (err == nil) != c.ok {
			t.Errorf("LoadFile with passphrase file %q: %v, want success %v", c.text, err, c.ok)
		}
	}
}

// A symbolic link is how Kubernetes mounts a secret.
func TestLoadFileFollowsLinks(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(fixture(t, "sec1-p256.pem"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := hsm.LoadFile(hsm.FileConfig{Path: link}); err != nil {
		t.Errorf("LoadFile of a link to a good key: %v", err)
	}
}

// The library that decrypts trusts lengths and panics on wrong ones.
func TestDamagedEncryptedKeyIsAnError(t *testing.T) {
	text, err := os.ReadFile("testdata/pbkdf2-p256.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	pass := fixture(t, "passphrase")
	path := secret(t, nil, 0o600)
	load := func(der []byte) error {
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := hsm.LoadFile(hsm.FileConfig{Path: path, PassphraseFile: pass})
		return err
	}
	if err := load(block.Bytes); err != nil {
		t.Fatalf("LoadFile of the undamaged key: %v", err)
	}
	for n := range len(block.Bytes) {
		if err := load(block.Bytes[:n]); err == nil {
			t.Errorf("LoadFile of %d of %d bytes succeeded", n, len(block.Bytes))
		}
	}
	// CBC has no integrity: a flipped bit may make another key, which the chain's
	// certificate then tells apart. It must never make a panic.
	for n := range len(block.Bytes) {
		der := bytes.Clone(block.Bytes)
		der[n] ^= 1
		_ = load(der)
	}
	if err := load(append(bytes.Clone(block.Bytes), 0)); err == nil {
		t.Error("LoadFile with a trailing byte succeeded")
	}
}

func TestKeyNeverPrintsItself(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := secret(t, pkcs8PEM(t, key), 0o600)
	k, err := hsm.LoadFile(hsm.FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&out, verb+"\n", k)
	}
	d, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{fmt.Sprintf("%x", d), fmt.Sprintf("%d", d), new(big.Int).SetBytes(d).String()} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("printed key shows its private half:\n%s", out.String())
		}
	}
	if got := strings.Count(out.String(), path); got != 9 {
		t.Errorf("printed key names its path %d times, want 9:\n%s", got, out.String())
	}
}
