package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// clientSection is for certificates with which machines show who they are.
const clientSection = `
[client]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
`

// sharedLog is `mayfly log serve`: a log without a certificate authority, on a
// machine without a CA key.
type sharedLog struct {
	organization *world
	config       string
	publicKey    string
	read, submit string // base URLs
	daemon       *daemon
}

func newSharedLog(t *testing.T) *sharedLog {
	t.Helper()
	l := &sharedLog{organization: newOrganization(t)}
	p := l.organization.pki
	writeFile(t, p.file("openssl.cnf"), opensslConfig+clientSection)
	read, submit := freePort(t), freePort(t)
	l.read, l.submit = fmt.Sprintf("https://127.0.0.1:%d", read), fmt.Sprintf("https://127.0.0.1:%d", submit)
	dir := t.TempDir()
	l.config = writeFile(t, filepath.Join(dir, "log.yaml"), fmt.Sprintf(`listen:
  address: "127.0.0.1:%[1]d"
  tls: {certificate: %[2]s, key: %[3]s}
public_url: %[4]s
state: state
shutdown: 5s
logs:
  - name: shared
    embedded:
      checkpoint_record: record
      submission:
        address: "127.0.0.1:%[5]d"
        tls: {certificate: %[2]s, key: %[3]s}
        client_ca: %[6]s
        issuers: [%[7]s]
`, read, p.file("tls.crt"), p.file("tls.key"), l.read, submit, p.file(rootFile), p.file("corp.crt")))
	mayfly, run := program(t, "E2E_MAYFLY"), command{dir: dir}
	run.mustFail(t, []string{"mayfly log init"}, mayfly, "log", "serve", "--config", l.config)
	found := publicKeyLine.FindStringSubmatch(run.must(t, mayfly, "log", "init", "--config", l.config))
	if found == nil {
		t.Fatal("mayfly log init does not name the public key's file")
	}
	l.publicKey = found[1]
	run.must(t, mayfly, "config", "check", l.config)
	run.mustFail(t, []string{"mayfly log serve"}, mayfly, "serve", "--config", l.config)
	l.serve(t)
	return l
}

func (l *sharedLog) serve(t *testing.T) {
	t.Helper()
	l.daemon = startDaemon(t, filepath.Dir(l.config), program(t, "E2E_MAYFLY"), "log", "serve", "--config", l.config)
	client := l.organization.client(t)
	l.daemon.await(t, "readiness", startTime, func() error {
		_, err := fetch(client, l.read+"/readyz")
		return err
	})
}

// newReplica is a Mayfly with a client certificate and a state directory of its
// own.
func (l *sharedLog) newReplica(t *testing.T, name string) *world {
	t.Helper()
	p := l.organization.pki
	p.certify(t, name, name+".corp.example", "P-256", "client", "root")
	w := newWorld(t, setting{tsa: true, limits: noLimits, organization: l.organization, logs: fmt.Sprintf(`  - name: shared
    remote:
      url: %s/log/shared
      public_key: %s
      ca_file: %s
      client_certificate: %s
      client_key: %s
      monitoring_url: %s/log/shared
`, l.submit, l.publicKey, p.file(rootFile), p.file(name+".crt"), p.file(name+".key"), l.read)})
	w.logKey, l.organization.tsaURL = l.publicKey, w.tsaURL // of those there is one at a time
	return w
}

// reader reads the log as a monitor does, at the URL of the log's own machine.
func (l *sharedLog) reader(t *testing.T, w *world) *logReader {
	t.Helper()
	r := w.log(t)
	r.url = l.read + "/log/shared"
	return r
}

// TestReplicasShareOneLog has two replicas submit to one log. Clients take what
// either issues, with the trust files of the other; the log has all of it; and
// when the log is away, nothing is issued, until it is back.
func TestReplicasShareOneLog(t *testing.T) {
	l := newSharedLog(t)
	a, b := l.newReplica(t, "replica-a"), l.newReplica(t, "replica-b")
	blob := writeFile(t, filepath.Join(a.dir, "release.tar"), "what is released\n")
	for _, side := range []struct {
		name          string
		signer, other *world
	}{{"a", a, b}, {"b", b, a}} {
		for _, c := range []bundleClient{cosign3(), sigstoreGo()} {
			t.Run(side.name+"/"+c.name, func(t *testing.T) {
				bundle := filepath.Join(side.signer.dir, c.name+".sigstore.json")
				c.sign(t, side.signer, blob, bundle)
				for _, w := range []*world{side.signer, side.other} {
					if err := c.verify(t, w, blob, bundle, alice, w.issuer.url); err != nil {
						t.Errorf("verifying with the trust files of %s: %v", w.url, err)
					}
				}
			})
		}
		t.Run(side.name+"/cosign-v2", func(t *testing.T) { signClassic(t, side.signer, blob) })
	}
	reader := l.reader(t, a)
	var last promise
	for _, w := range []*world{a, b} {
		promised, err := reader.promised(w.mustIssue(t, alice)[0], w.issuing(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := reader.prove(reader.awaitCheckpoint(t, promised.index+1), promised); err != nil {
			t.Errorf("what %s issued: %v", w.url, err)
		}
		last = promised
	}
	before := reader.awaitCheckpoint(t, last.index+1)

	if err := l.daemon.terminate(t, 15*time.Second); err != nil {
		t.Fatalf("ending the log: %v", err)
	}
	for _, w := range []*world{a, b} {
		got, err := w.request(newApplicant(t, alice), w.issuer.token(t, alice, nil))
		if err != nil {
			t.Fatal(err)
		}
		if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
			t.Errorf("without the log: got %v, want 503 with Retry-After", got)
		}
	}
	l.serve(t)
	for _, w := range []*world{a, b} {
		w.mayfly.await(t, "certificate once the log is back", 40*time.Second, func() error {
			got, err := w.request(newApplicant(t, alice), w.issuer.token(t, alice, nil))
			if err == nil && got.chain == nil {
				err = fmt.Errorf("refused with %v", got)
			}
			return err
		})
	}
	reader.checkConsistent(t, before, reader.awaitCheckpoint(t, before.N+2))
	for _, w := range []*world{a, b} {
		w.journal(t).checkClosed(t)
	}
}

// TestSharedLogKeepsStrangersOut submits as those would who must not: without a
// certificate, with one that is for servers, and a chain that the log does not
// list; and a HUP signal, which must not end it.
func TestSharedLogKeepsStrangersOut(t *testing.T) {
	l := newSharedLog(t)
	p := l.organization.pki
	p.certify(t, "replica", "replica.corp.example", "P-256", "client", "root")
	if err := l.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"chain": [][]byte{l.organization.issuing(t).Raw}})
	if err != nil {
		t.Fatal(err)
	}
	submit := func(certificate string) (int, error) {
		client := l.organization.client(t)
		if certificate != "" {
			pair, err := tls.LoadX509KeyPair(p.file(certificate+".crt"), p.file(certificate+".key"))
			if err != nil {
				t.Fatal(err)
			}
			client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{pair}
		}
		resp, err := client.Post(l.submit+"/log/shared/ct/v1/add-chain", "application/json", bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		return resp.StatusCode, nil
	}
	for _, certificate := range []string{"", "tls"} {
		if status, err := submit(certificate); err == nil {
			t.Errorf("with certificate %q: got %d, want no connection", certificate, status)
		}
	}
	if status, err := submit("replica"); err != nil || status != http.StatusBadRequest {
		t.Errorf("a certificate authority as an entry: got %d (%v), want 400", status, err)
	}
	client := l.organization.client(t)
	if _, err := fetch(client, l.read+"/log/shared/ct/v1/get-roots"); err == nil {
		t.Error("submission is open where the log is read")
	}
	checkpoint, err := fetch(client, l.read+"/log/shared/checkpoint")
	if err != nil || !bytes.Contains(checkpoint, []byte("\n0\n")) {
		t.Errorf("checkpoint is %q (%v), want an empty log", checkpoint, err)
	}
	if err := l.daemon.terminate(t, 15*time.Second); err != nil {
		t.Errorf("ending the log: %v", err)
	}
}
