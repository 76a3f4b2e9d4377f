//go:build full

package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ctclient "github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
)

// ctfe is the log that a busy organization moves to: CTFE before Trillian on
// PostgreSQL, with the files of deploy/scale/ctfe. Everything of it is in a
// directory of its own and on ports of its own.
type ctfe struct {
	dir       string
	url       string // submission prefix
	publicKey string // file
	id        [32]byte
	database  *daemon
	server    *daemon // Trillian's
	frontend  *daemon
	ports     struct{ database, server, signer, frontend int }
	password  string // of the database and the key
	tree      string // Trillian's name for the log
	http      *http.Client
}

// ctfePrefix is the log's path in deploy/scale/ctfe/ctfe.cfg.
const ctfePrefix = "2027"

// newCTFE starts everything but CTFE itself, which needs to know a root.
func newCTFE(t testing.TB) *ctfe {
	t.Helper()
	// Not t.TempDir: PostgreSQL refuses to run as root, and other users cannot
	// enter that.
	dir, err := os.MkdirTemp("", "mayfly-ctfe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("tidying up: %v", err)
		}
	})
	c := &ctfe{dir: dir, password: rand.Text(), http: &http.Client{Timeout: 10 * time.Second}}
	c.ports.database, c.ports.server = freePort(t), freePort(t)
	c.ports.signer, c.ports.frontend = freePort(t), freePort(t)
	c.url = fmt.Sprintf("http://127.0.0.1:%d/%s", c.ports.frontend, ctfePrefix)
	c.newKey(t)
	c.initDatabase(t)
	c.startDatabase(t)
	c.startTrillian(t)
	return c
}

// entry is the log in Mayfly's configuration.
func (c *ctfe) entry(name string) string {
	return fmt.Sprintf("  - {name: %s, remote: {url: %s, public_key: %s}}\n", name, c.url, c.publicKey)
}

func (c *ctfe) file(name string) string { return filepath.Join(c.dir, name) }

// newKey makes the log's key as the comment in ctfe.cfg says.
func (c *ctfe) newKey(t testing.TB) {
	t.Helper()
	key, openssl := c.file("log.key"), command{dir: c.dir}
	openssl.must(t, "openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "plain.key")
	openssl.must(t, "openssl", "ec", "-in", "plain.key", "-aes256", "-passout", "pass:"+c.password, "-out", key)
	c.publicKey = c.file("log.pub")
	openssl.must(t, "openssl", "ec", "-in", key, "-passin", "pass:"+c.password, "-pubout", "-out", c.publicKey)
	block, _ := pem.Decode(readFile(t, c.publicKey))
	if block == nil {
		t.Fatal("openssl wrote no PEM")
	}
	c.id = sha256.Sum256(block.Bytes)
}

// unprivileged is how a program of PostgreSQL is started: not by root, and so
// that it dies with the test. (The kernel forgets startDaemon's wish for that
// when the user changes.)
func unprivileged(t testing.TB, name string) (string, []string) {
	t.Helper()
	name = filepath.Join(program(t, "E2E_POSTGRESQL"), name)
	if os.Geteuid() != 0 {
		return name, nil
	}
	return "setpriv", []string{"--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", name}
}

// give makes a file the database's.
func give(t testing.TB, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

// initDatabase makes a cluster with Trillian's database, and leaves it stopped.
func (c *ctfe) initDatabase(t testing.TB) {
	t.Helper()
	give(t, c.dir)
	give(t, writeFile(t, c.file("password"), c.password+"\n"))
	name, args := unprivileged(t, "initdb")
	command{dir: c.dir}.must(t, name, append(args, "--pgdata", c.file("data"), "--username=postgres", "--pwfile", c.file("password"),
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8")...)
}

// startDatabase starts PostgreSQL with its defaults, fsync among them, on
// loopback and without a socket. Its owner is t.
func (c *ctfe) startDatabase(t testing.TB) {
	t.Helper()
	name, args := unprivileged(t, "postgres")
	d := startDaemon(t, c.dir, name, append(args, "-D", c.file("data"), "-c", "listen_addresses=127.0.0.1",
		"-c", fmt.Sprintf("port=%d", c.ports.database), "-c", "unix_socket_directories=")...)
	c.database, d.name = d, "postgres"
	// A killed postmaster's children write for a moment longer, so it is asked
	// first: SIGINT is a fast shutdown.
	t.Cleanup(func() { d.interrupt(t) })
	psql := command{dir: c.dir, env: []string{"PGPASSWORD=" + c.password}}
	sql := func(user, database string, args ...string) error {
		_, err := psql.run(t, filepath.Join(program(t, "E2E_POSTGRESQL"), "psql"), append([]string{"--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1",
			"--host=127.0.0.1", fmt.Sprintf("--port=%d", c.ports.database), "--username=" + user, "--dbname=" + database}, args...)...)
		return err
	}
	d.await(t, "answer", startTime, func() error { return sql("postgres", "postgres", "--command=SELECT 1") })
	if sql("trillian", "trillian", "--command=SELECT 1") == nil {
		return // made before
	}
	if err := errors.Join(
		sql("postgres", "postgres", "--command=CREATE ROLE trillian LOGIN PASSWORD '"+c.password+"'"),
		sql("postgres", "postgres", "--command=CREATE DATABASE trillian OWNER trillian"),
		sql("trillian", "trillian", "--file="+filepath.Join(program(t, "E2E_CTFE"), "storage.sql")),
	); err != nil {
		t.Fatal(err)
	}
}

// interrupt asks for an end, waits for it, and kills when it does not come.
func (d *daemon) interrupt(t testing.TB) {
	t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGINT) // it may have ended
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		t.Errorf("%s (process %d) did not end within ten seconds of SIGINT", d.name, d.cmd.Process.Pid)
		d.kill()
	}
}

func (d *daemon) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		t.Fatalf("sending %v to %s: %v", s, d.name, err)
	}
}

// example copies a file of deploy/scale/ctfe with what differs here. Each old
// text must be there, so that the file and this test cannot part.
func (c *ctfe) example(t testing.TB, name string, oldnew ...string) string {
	t.Helper()
	text := string(readFile(t, filepath.Join("..", "deploy", "scale", "ctfe", name)))
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("deploy/scale/ctfe/%s has no %q", name, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return writeFile(t, c.file(name), text)
}

var treeLine = regexp.MustCompile(`(?m)^\d+$`)

// startTrillian starts the log server and the signer, and makes the tree.
func (c *ctfe) startTrillian(t testing.TB) {
	t.Helper()
	for _, part := range []struct {
		name, rpc, http string
		port            int
	}{
		{"log_server", "127.0.0.1:8090", "127.0.0.1:8091", c.ports.server},
		{"log_signer", "127.0.0.1:8092", "127.0.0.1:8093", c.ports.signer},
	} {
		health := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		flags := c.example(t, part.name+".flags", "127.0.0.1:5432", fmt.Sprintf("127.0.0.1:%d", c.ports.database),
			part.rpc, fmt.Sprintf("127.0.0.1:%d", part.port), part.http, health)
		d := startDaemon(t, c.dir, "env", "TRILLIAN_PASSWORD="+c.password, filepath.Join(program(t, "E2E_CTFE"), "trillian_"+part.name), "--config="+flags)
		d.name = "trillian_" + part.name
		if part.port == c.ports.server {
			c.server = d
		}
		d.await(t, "health", startTime, func() error {
			_, err := fetch(c.http, "http://"+health+"/healthz")
			return err
		})
	}
	out := command{dir: c.dir}.must(t, filepath.Join(program(t, "E2E_CTFE"), "createtree"), fmt.Sprintf("--admin_server=127.0.0.1:%d", c.ports.server))
	if c.tree = treeLine.FindString(out); c.tree == "" {
		t.Fatalf("createtree names no tree:\n%s", out)
	}
}

// start starts CTFE, which accepts chains that end in the root, and waits until
// it answers. The process belongs to t.
func (c *ctfe) start(t testing.TB, root string) {
	t.Helper()
	config := c.example(t, "ctfe.cfg", "1234567890123456789", c.tree, "/etc/ctfe/root.pem", root, "/etc/ctfe/log.key", c.file("log.key"), "change-me", c.password)
	c.frontend = startDaemon(t, c.dir, filepath.Join(program(t, "E2E_CTFE"), "ct_server"), "--log_config="+config,
		fmt.Sprintf("--log_rpc_server=127.0.0.1:%d", c.ports.server), fmt.Sprintf("--http_endpoint=127.0.0.1:%d", c.ports.frontend))
	c.frontend.await(t, "tree head", startTime, func() error {
		_, err := fetch(c.http, c.url+"/ct/v1/get-sth")
		return err
	})
}

// client is certificate-transparency-go's, which verifies with the log's key.
func (c *ctfe) client(t testing.TB) *ctclient.LogClient {
	t.Helper()
	client, err := ctclient.New(c.url, c.http, jsonclient.Options{PublicKey: string(readFile(t, c.publicKey))})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
