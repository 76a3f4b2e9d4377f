package faultmodule

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The PINs of all tokens that SoftHSM makes.
const (
	PIN   = "1234"
	SOPIN = "12345678"
)

// softHSMLibraries are where distributions put it.
var softHSMLibraries = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
}

// SoftHSM is a directory of SoftHSM tokens for one test.
type SoftHSM struct {
	// Library is the module. Who loads it as it is must set SOFTHSM2_CONF to
	// Conf; a fault module over it needs nothing.
	Library string
	// Conf is the configuration, which SoftHSM reads when it is initialised.
	Conf string
	// Tokens is the directory with one directory for each token.
	Tokens string

	tb testing.TB
}

// NewSoftHSM makes a place for tokens. No two copies of SoftHSM in a process may
// use one place: the locks on its files are between processes, and where they
// read what the other is writing they abort.
func NewSoftHSM(tb testing.TB) *SoftHSM {
	tb.Helper()
	// Not TempDir, which has the name of the test: SoftHSM cannot read a path
	// with an equals sign.
	dir, err := os.MkdirTemp("", "softhsm-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("removing tokens: %v", err)
		}
	})
	s := &SoftHSM{tb: tb, Tokens: filepath.Join(dir, "tokens")}
	for _, library := range softHSMLibraries {
		if _, err := os.Stat(library); err == nil {
			s.Library = library
			break
		}
	}
	if s.Library == "" {
		tb.Fatalf("no SoftHSM in %v. Run:  apt-get install -y softhsm2", softHSMLibraries)
	}
	if err := os.Mkdir(s.Tokens, 0o700); err != nil {
		tb.Fatal(err)
	}
	s.Conf = filepath.Join(filepath.Dir(s.Tokens), "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", s.Tokens)
	if err := os.WriteFile(s.Conf, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return s
}

// Module builds a fault module over SoftHSM with these tokens.
func (s *SoftHSM) Module() *Module {
	s.tb.Helper()
	return newModule(s.tb, s.Library, "SOFTHSM2_CONF="+s.Conf)
}

// Token makes a token with a label and returns its directory.
func (s *SoftHSM) Token(label string) string {
	s.tb.Helper()
	before := s.directories()
	s.util("--init-token", "--free", "--label", label, "--so-pin", SOPIN, "--pin", PIN)
	for dir := range s.directories() {
		if !before[dir] {
			return filepath.Join(s.Tokens, dir)
		}
	}
	s.tb.Fatalf("softhsm2-util made no directory for token %q in %s", label, s.Tokens)
	return ""
}

// Import puts a key into the token with the label token, as a pair of objects
// that can neither be read nor extracted. The id is in hexadecimal.
func (s *SoftHSM) Import(token, object, id string, key crypto.Signer) {
	s.tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.tb.Fatal(err)
	}
	file := filepath.Join(s.tb.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	s.util("--import", file, "--token", token, "--pin", PIN, "--label", object, "--id", id)
}

func (s *SoftHSM) directories() map[string]bool {
	s.tb.Helper()
	entries, err := os.ReadDir(s.Tokens)
	if err != nil {
		s.tb.Fatal(err)
	}
	names := make(map[string]bool)
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

// util runs softhsm2-util, which makes tokens in a process of its own: in this
// one, they would share C_Initialize with the code under test.
func (s *SoftHSM) util(args ...string) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := run(ctx, []string{"SOFTHSM2_CONF=" + s.Conf}, "softhsm2-util", append(args, "--module", s.Library)...); err != nil {
		s.tb.Fatalf("%v\n%s\nIf it is missing, run:  apt-get install -y softhsm2", err, out)
	}
}
