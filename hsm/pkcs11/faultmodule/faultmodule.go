// Package faultmodule gives tests a PKCS#11 library that forwards to another
// one, such as SoftHSM, and goes wrong on command: [New] builds it and returns
// the [Module] that commands it. The program under test loads [Module.Path] as
// it would any library, in this process or in another.
//
// It can return any CKR code from a function, with or without doing what was
// asked; let calls hang until they are released; take time without taking CPU;
// drop sessions and logins behind the caller's back; have its tokens pulled out,
// or want C_Finalize before anything works; move slots; find or sign with
// another key; and flip bits in signatures.
//
// Invariants: two modules share nothing, so that one can fail while the other
// stands in; no lock is held while a call is delayed or hangs, so that callers
// race as they would on a device; what no caller may ever do, such as
// C_Finalize under a running call, fails the test that made the module.
//
// It makes no tokens and holds no keys; those are in the library below. It needs
// a C compiler and Linux.
package faultmodule

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

//go:embed module/*.c module/*.h
var source embed.FS

// compileTimeout is for a machine that does much else.
const compileTimeout = 2 * time.Minute

// compiled is the library, built once for all the tests of a process.
var compiled = sync.OnceValues(compile)

// functions are those that can be made to fail, without the C_ of their names.
// The rest is forwarded as it is. The builder tells the C source, so that the
// order is in one place.
var functions = []string{
	"Initialize", "Finalize", "GetInfo", "GetSlotList", "GetSlotInfo", "GetTokenInfo", "GetMechanismList",
	"GetMechanismInfo", "InitToken", "OpenSession", "CloseSession", "CloseAllSessions", "GetSessionInfo",
	"Login", "Logout", "FindObjectsInit", "FindObjects", "FindObjectsFinal", "GetAttributeValue",
	"CreateObject", "GenerateKeyPair", "GenerateRandom", "SignInit", "Sign",
}

// newModule builds a module over the library below, which sets a variable of the
// environment, written NAME=VALUE, when it initialises that. When the test ends,
// calls that hang are released, and violations fail it.
//
// The module lies in the test's temporary directory, and belongs to whoever runs
// the test: where a library must belong to root, so must the test.
func newModule(tb testing.TB, below, variable string) *Module {
	tb.Helper()
	library, err := compiled()
	if err != nil {
		tb.Fatalf("building the fault module: %v", err)
	}
	path := filepath.Join(tb.TempDir(), "fault.so")
	if err := os.WriteFile(path, library, 0o640); err != nil {
		tb.Fatal(err)
	}
	// Loading a file twice gives one library; loading a copy gives another.
	copied, err := os.ReadFile(below)
	if err == nil {
		err = os.WriteFile(path+".real", copied, 0o640)
	}
	if err != nil {
		tb.Fatalf("copying the library below the fault module: %v", err)
	}
	if variable != "" {
		if err := os.WriteFile(path+".env", []byte(variable+"\n"), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	control, err := newControl(path + ".control")
	if err != nil {
		tb.Fatalf("making the control file of the fault module: %v", err)
	}
	m := &Module{Path: path, words: control}
	tb.Cleanup(func() {
		m.Reset()
		for _, v := range m.Violations() {
			tb.Errorf("the caller of PKCS#11 module %s broke a rule: %s", path, v)
		}
	})
	return m
}

// compile builds the library with the C compiler and the headers that the Go
// binding to PKCS#11 comes with, so that both mean the same by every type.
func compile() (library []byte, err error) {
	dir, err := os.MkdirTemp("", "faultmodule-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.CopyFS(dir, source); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), compileTimeout)
	defer cancel()
	headers, err := run(ctx, nil, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11")
	if err != nil {
		return nil, err
	}
	var list strings.Builder
	for _, f := range functions {
		fmt.Fprintf(&list, "X(%s) ", f)
	}
	built := filepath.Join(dir, "fault.so")
	if _, err := run(ctx, nil, "cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden",
		// Threads may be inside when the program lets go of it.
		"-Wl,-z,nodelete",
		"-I", strings.TrimSpace(headers), "-DFUNCTIONS="+list.String(),
		"-o", built, filepath.Join(dir, "module", "fault.c"), "-ldl", "-lpthread"); err != nil {
		return nil, fmt.Errorf("%w (on Debian: apt-get install -y gcc libc6-dev)", err)
	}
	return os.ReadFile(built)
}

// run runs a program, with more in its environment, and returns what it says.
func run(ctx context.Context, env []string, name string, args ...string) (string, error) {
	//nolint:gosec // G204: the arguments are written above.
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running %s: %w\n%s", name, err, stderr.String())
	}
	return string(out), nil
}
