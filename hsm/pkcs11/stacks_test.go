//go:build stacks

package pkcs11_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/hsm/hsmtest"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

// The tests of this file hold other makers' stacks to what SoftHSM is held to.
// They need daemons and Debian packages, and root:
//
//	apt-get install -y --no-install-recommends opencryptoki libtpm2-pkcs11-1 libtpm2-pkcs11-tools \
//	    swtpm swtpm-tools tpm2-abrmd libtss2-tcti-tabrmd0 libtss2-tcti-swtpm0 tpm2-tools dbus
//	go test -tags stacks -run Stack ./hsm/pkcs11
//
// Of opencryptoki the test uses the soft token of the machine, unless somebody
// has it in use; the TPM is made for the test.

const (
	stackLabel = "mayfly-test"
	stackPIN   = "24681357"
	stackSOPIN = "76543210"
)

// algorithms are what Generate calls the kinds of keys.
var algorithms = map[hsmtest.Kind]string{
	hsmtest.P256: "ecdsa-p256", hsmtest.P384: "ecdsa-p384",
	hsmtest.RSA2048: "rsa-2048", hsmtest.RSA3072: "rsa-3072", hsmtest.RSA4096: "rsa-4096",
}

// makeKey makes a key and returns what the token says about it.
type makeKey func(ctx context.Context, cfg pkcs11.TokenConfig, kind hsmtest.Kind, label string) (pkcs11.Object, error)

// generated makes keys with our own keygen.
func generated(ctx context.Context, cfg pkcs11.TokenConfig, kind hsmtest.Kind, label string) (pkcs11.Object, error) {
	g, err := pkcs11.Generate(ctx, cfg, pkcs11.GenerateConfig{Object: label, Algorithm: algorithms[kind]})
	if err != nil {
		return pkcs11.Object{}, err
	}
	return g.Key, nil
}

// runStack makes keys of each kind and runs the conformance suite with them.
func runStack(t *testing.T, cfg pkcs11.TokenConfig, lacks hsmtest.Capabilities, newKey makeKey) {
	t.Helper()
	cfg.Name, cfg.Label, cfg.PINFile = "stack", stackLabel, filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(cfg.PINFile, []byte(stackPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := make(map[hsmtest.Kind]pkcs11.Object)
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	hsmtest.RunStack(t, hsmtest.Stack{Capabilities: lacks, NewKey: func(tb testing.TB, kind hsmtest.Kind) (hsm.Key, error) {
		tb.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		o, ok := made[kind]
		if !ok {
			var err error
			if o, err = newKey(ctx, cfg, kind, algorithms[kind]+"-"+run); err != nil {
				return nil, err
			}
			made[kind] = o
		}
		token, err := pkcs11.OpenToken(ctx, cfg)
		if err != nil {
			return nil, err
		}
		tb.Cleanup(func() {
			if err := closeToken(token); err != nil {
				tb.Errorf("closing the token: %v", err)
			}
		})
		return pkcs11.NewKey(ctx, []*pkcs11.Token{token}, pkcs11.KeyConfig{
			Name: string(kind), Object: o.Label, ID: o.ID, Public: o.Public,
		})
	}})
}

// library finds a library, or says how to have it.
func library(t *testing.T, packages string, paths ...string) string {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("none of %v is there. Run:  apt-get install -y --no-install-recommends %s", paths, packages)
	return ""
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The soft token of opencryptoki has no elliptic curves, and its slots belong to
// a daemon.
func TestStackOpencryptoki(t *testing.T) {
	module := library(t, "opencryptoki", "/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0", "/usr/lib/aarch64-linux-gnu/opencryptoki/libopencryptoki.so.0")
	startSlotDaemon(t)
	initOpencryptoki(t, module)
	runStack(t, pkcs11.TokenConfig{Module: module}, hsmtest.Capabilities{LacksKinds: []hsmtest.Kind{hsmtest.P256, hsmtest.P384}}, generated)
}

// startSlotDaemon starts pkcsslotd, which detaches itself, unless it runs.
func startSlotDaemon(t *testing.T) {
	t.Helper()
	const pidFile = "/run/pkcsslotd.pid"
	if exec.Command("pkcsconf", "-i").Run() == nil {
		return
	}
	command(t, "pkcsslotd")
	t.Cleanup(func() {
		if pid, err := readPID(pidFile); err != nil {
			t.Errorf("stopping pkcsslotd: %v", err)
		} else if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Errorf("stopping pkcsslotd: %v", err)
		}
	})
}

func readPID(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// initOpencryptoki initialises the soft token, unless this test has before. It
// leaves a token alone that somebody else uses.
func initOpencryptoki(t *testing.T, module string) {
	t.Helper()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	a := p11.New(module)
	must("C_Initialize", a.Initialize())
	defer func() { must("C_Finalize", a.Finalize()) }()
	slots, err := a.GetSlotList(true)
	must("C_GetSlotList", err)
	for _, slot := range slots {
		info, err := a.GetTokenInfo(slot)
		must("C_GetTokenInfo", err)
		if !strings.Contains(info.Model, "SoftTok") {
			continue
		}
		if info.Flags&p11.CKF_USER_PIN_INITIALIZED != 0 && strings.TrimSpace(info.Label) != stackLabel {
			t.Fatalf("the soft token of this machine is in use as %q, and this test would erase it", info.Label)
		}
		if info.Flags&p11.CKF_USER_PIN_INITIALIZED != 0 {
			return // by an earlier run
		}
		// The PIN that opencryptoki gives to each new token.
		const so = "87654321"
		must("C_InitToken", a.InitToken(slot, so, stackLabel))
		s, err := a.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		must("C_OpenSession", err)
		must("C_Login", a.Login(s, p11.CKU_SO, so))
		must("C_SetPIN", a.SetPIN(s, so, stackSOPIN))
		must("C_InitPIN", a.InitPIN(s, "00000000"))
		must("C_Logout", a.Logout(s))
		must("C_Login", a.Login(s, p11.CKU_USER, "00000000"))
		must("C_SetPIN", a.SetPIN(s, "00000000", stackPIN))
		return
	}
	t.Fatal("opencryptoki has no soft token: /etc/opencryptoki/opencryptoki.conf must name libpkcs11_sw.so")
}

// A TPM makes no RSA keys of 4096 bits, and does one thing at a time.
func TestStackTPM(t *testing.T) {
	packages := "libtpm2-pkcs11-1 libtpm2-pkcs11-tools swtpm swtpm-tools tpm2-abrmd libtss2-tcti-tabrmd0 libtss2-tcti-swtpm0 tpm2-tools dbus"
	module := library(t, packages, "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so", "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so")
	dir, err := os.MkdirTemp("", "tpm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// The first daemon's port is the TPM's, the next its control channel.
	port := freePorts(t)
	start(t, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--flags", "not-need-init,startup-clear",
		"--server", "type=tcp,bindaddr=127.0.0.1,port="+strconv.Itoa(port), "--ctrl", "type=tcp,bindaddr=127.0.0.1,port="+strconv.Itoa(port+1))
	until(t, "swtpm to listen", 10*time.Second, func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1)))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	bus := "unix:path=" + filepath.Join(dir, "bus")
	start(t, "dbus-daemon", "--session", "--nofork", "--address="+bus)
	until(t, "the bus", 10*time.Second, func() bool { _, err := os.Stat(filepath.Join(dir, "bus")); return err == nil })
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", bus)
	start(t, "tpm2-abrmd", "--allow-root", "--session", "--tcti=swtpm:host=127.0.0.1,port="+strconv.Itoa(port))
	tcti := "tabrmd:bus_type=session"
	until(t, "tpm2-abrmd to answer", 20*time.Second, func() bool {
		return exec.Command("tpm2_getrandom", "-T", tcti, "4").Run() == nil
	})
	t.Setenv("TPM2_PKCS11_TCTI", tcti)
	t.Setenv("TPM2TOOLS_TCTI", tcti)
	t.Setenv("TPM2_PKCS11_STORE", dir)
	command(t, "tpm2_ptool", "init", "--path", dir)
	command(t, "tpm2_ptool", "addtoken", "--path", dir, "--pid", "1", "--label", stackLabel, "--sopin", stackSOPIN, "--userpin", stackPIN)
	runStack(t, pkcs11.TokenConfig{Module: module}, hsmtest.Capabilities{LacksKinds: []hsmtest.Kind{hsmtest.RSA4096}}, ptool)
}

// ptool makes keys with the tool of the stack: C_GenerateKeyPair of version 1.9
// answers CKR_GENERAL_ERROR to a public template with CKA_VERIFY, "User specified
// and TPM specified attr mismatch".
func ptool(ctx context.Context, cfg pkcs11.TokenConfig, kind hsmtest.Kind, label string) (pkcs11.Object, error) {
	algorithm := map[hsmtest.Kind]string{
		hsmtest.P256: "ecc256", hsmtest.P384: "ecc384", hsmtest.RSA2048: "rsa2048", hsmtest.RSA3072: "rsa3072", hsmtest.RSA4096: "rsa4096",
	}[kind]
	out, err := exec.CommandContext(ctx, "tpm2_ptool", "addkey", "--path", os.Getenv("TPM2_PKCS11_STORE"),
		"--label", stackLabel, "--userpin", stackPIN, "--key-label", label, "--algorithm", algorithm).CombinedOutput()
	if err != nil {
		return pkcs11.Object{}, fmt.Errorf("tpm2_ptool addkey: %w: %s", err, out)
	}
	return pkcs11.FindObject(ctx, cfg, pkcs11.KeyConfig{Name: label, Object: label, AllowExtractable: true})
}

// freePorts returns a port after which another is free.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		next, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1)))
		l.Close()
		if err == nil {
			next.Close()
			return port
		}
	}
	t.Fatal("no two free ports")
	return 0
}

// start runs a daemon until the test ends.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); t.Failed() || err != nil && !ok {
			t.Logf("%s ended with %v (%v):\n%s", name, err, exit, out.String())
		}
	})
}
