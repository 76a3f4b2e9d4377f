package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// logServer is `mayfly log serve` with deploy/scale/log.yaml, and who may submit
// to it.
type logServer struct {
	scale
	daemon         *daemon
	submit, read   string // URLs of the log
	publicKey      string // file
	local          string // public key of the log that the first replica had before
	submitters     *x509.Certificate
	submittersSign func(template *x509.Certificate, public any) []byte
}

// newLogServer makes the log and serves it. The issuing certificate of p is the
// one whose certificates are taken.
func newLogServer(t testing.TB, p pki) *logServer {
	t.Helper()
	l := &logServer{scale: newScale(t, p, "log.yaml"), local: newPublicKey(t)}
	l.newSubmitters(t)
	read, submit := freePort(t), freePort(t)
	l.read, l.submit = fmt.Sprintf("https://127.0.0.1:%d/log/corp", read), fmt.Sprintf("https://127.0.0.1:%d/log/corp", submit)
	l.replace(t, "/srv/other-disk/", l.states+"/", `":8443"`, fmt.Sprintf("127.0.0.1:%d", read), `":9443"`, fmt.Sprintf("127.0.0.1:%d", submit),
		"https://ct.corp.example", fmt.Sprintf("https://127.0.0.1:%d", read), `"127.0.0.1:9090"`, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	out := command{dir: l.dir}.must(t, program(t, "E2E_MAYFLY"), "log", "init", "--config", l.config)
	found := publicKeyLine.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("mayfly log init does not name the public key's file:\n%s", out)
	}
	l.publicKey = found[1]
	return l
}

// serve starts the log and waits until it can be read. The process belongs to t.
func (l *logServer) serve(t testing.TB, client *http.Client) {
	t.Helper()
	command{dir: l.dir}.must(t, program(t, "E2E_MAYFLY"), "config", "check", l.config)
	l.daemon = startDaemon(t, l.dir, program(t, "E2E_MAYFLY"), "log", "serve", "--config", l.config)
	l.daemon.await(t, "checkpoint", startTime, func() error {
		_, err := fetch(client, l.read+"/checkpoint")
		return err
	})
}

// newSubmitters makes the CA of submitters.
func (l *logServer) newSubmitters(t testing.TB) {
	t.Helper()
	key := newKey(t)
	l.submittersSign = func(template *x509.Certificate, public any) []byte {
		issuer := l.submitters
		if issuer == nil {
			issuer = template
		}
		serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
		if err != nil {
			t.Fatal(err)
		}
		template.SerialNumber, template.NotBefore, template.NotAfter = serial, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	der := l.submittersSign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Replicas"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key.Public())
	var err error
	if l.submitters, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(l.dir, "replicas-ca.pem"), encodePEM(l.submitters))
}

// admit gives a directory the certificate and key of a submitter.
func (l *logServer) admit(t testing.TB, dir string) {
	t.Helper()
	key := newKey(t)
	der := l.submittersSign(&x509.Certificate{
		Subject: pkix.Name{CommonName: filepath.Base(dir)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key.Public())
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "replica.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, filepath.Join(dir, "replica.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// newReplica serves deploy/scale/replica.yaml under a public URL that all
// replicas have. The process belongs to t.
//
// The journals of others are to be at its path "others".
func (l *logServer) newReplica(t testing.TB, is *issuer, public string) *world {
	t.Helper()
	s := newScale(t, l.pki, "replica.yaml")
	metrics := freePort(t)
	l.admit(t, s.dir)
	writeFile(t, filepath.Join(s.dir, "log-corp.pub"), string(readFile(t, l.publicKey)))
	writeFile(t, filepath.Join(s.dir, "log-local.pub"), l.local)
	port := freePort(t)
	s.replace(t, `":8443"`, fmt.Sprintf("127.0.0.1:%d", port), "https://mayfly.corp.example", public,
		`"127.0.0.1:9090"`, fmt.Sprintf("127.0.0.1:%d", metrics),
		"/srv/journals/replica-b, /srv/journals/replica-c]", filepath.Join(s.dir, "others")+"]\n  interval: 5s",
		"url: https://keycloak.corp.example/realms/eng", fmt.Sprintf("url: %s\n    ca_file: %s", is.url, l.pki.file(rootFile)),
		"https://ct.corp.example:9443/log/corp", l.submit, "https://ct.corp.example/log/corp", l.read)
	w := &world{
		pki: l.pki, issuer: is, dir: s.dir, state: s.state("mayfly"), config: s.config, logKey: l.publicKey,
		url: fmt.Sprintf("https://127.0.0.1:%d", port), metrics: fmt.Sprintf("http://127.0.0.1:%d/metrics", metrics),
	}
	w.http = w.client(t)
	w.prepare(t, false)
	w.serve(t)
	return w
}

// TestScaleReplicasShareOneLog runs the examples of deploy/scale: two replicas
// that submit to one log. They hand out the same trust; what either issues is in
// the log; and when the log is away, both refuse at once and go on by themselves.
func TestScaleReplicasShareOneLog(t *testing.T) {
	p := newPKI(t)
	l, is := newLogServer(t, p), newIssuer(t, p)
	client := (&world{pki: p}).client(t)
	l.serve(t, client)
	public := fmt.Sprintf("https://127.0.0.1:%d", freePort(t))
	replicas := []*world{l.newReplica(t, is, public), l.newReplica(t, is, public)}

	for _, path := range []string{"/trust/trusted_root.json", "/trust/signing_config.json"} {
		if a, b := replicas[0].mustGet(t, path), replicas[1].mustGet(t, path); !bytes.Equal(a, b) {
			t.Errorf("replicas differ in %s:\n%s\n%s", path, a, b)
		}
	}
	reader := replicas[0].log(t)
	reader.url = l.read
	const rounds = 3
	var last promise
	seen := map[int64]bool{}
	for range rounds {
		for _, w := range replicas {
			p, err := reader.promised(w.mustIssue(t, alice)[0], w.issuing(t))
			if err != nil {
				t.Fatal(err)
			}
			if seen[p.index] {
				t.Errorf("two certificates have the index %d", p.index)
			}
			seen[p.index], last = true, p
			if err := reader.prove(reader.awaitCheckpoint(t, p.index+1), p); err != nil {
				t.Error(err)
			}
		}
	}
	if tree := reader.awaitCheckpoint(t, last.index+1); tree.N != rounds*int64(len(replicas)) {
		t.Errorf("the log has %d entries after %d certificates", tree.N, rounds*len(replicas))
	}

	for i, w := range replicas {
		if err := os.Symlink(replicas[1-i].auditDir(), filepath.Join(w.dir, "others")); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range replicas {
		w.awaitQuietAudit(t, "corp", rounds*len(replicas))
	}

	l.daemon.kill()
	for _, w := range replicas {
		w.refusesWithoutLog(t)
	}
	l.serve(t, client)
	for _, w := range replicas {
		w.mayfly.await(t, "certificate once the log works", 40*time.Second, func() error {
			got, err := w.request(newApplicant(t, alice), is.token(t, alice, nil))
			if err == nil && got.chain == nil {
				err = errors.New(got.String())
			}
			return err
		})
		w.journal(t).checkClosed(t)
	}
}

// refusesWithoutLog demands a 503 with a time to come back.
func (w *world) refusesWithoutLog(t *testing.T) {
	t.Helper()
	got, err := w.request(newApplicant(t, alice), w.issuer.token(t, alice, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || got.took > maxRefusal {
		t.Errorf("without its log, a replica answered %v with Retry-After %q; want 503 and a time", got, got.header.Get("Retry-After"))
	}
}

// awaitQuietAudit waits until the log audit has accounted for so many entries of a
// log, whoever issued them, and demands that it found nobody's.
func (w *world) awaitQuietAudit(t *testing.T, log string, entries int) {
	t.Helper()
	w.mayfly.await(t, "audit", 40*time.Second, func() error {
		text, err := fetch(w.http, w.metrics)
		if err != nil {
			return err
		}
		for _, want := range []string{
			fmt.Sprintf("mayfly_auditor_log_size{log=%q} %d\n", log, entries), "mayfly_auditor_pending_entries 0\n",
		} {
			if !strings.Contains(string(text), want) {
				return fmt.Errorf("there is no %q in the metrics", want)
			}
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "mayfly_auditor_unexplained_entries_total ") && line != "mayfly_auditor_unexplained_entries_total 0\n" {
				t.Errorf("the audit of %s says %s", w.url, line)
			}
		}
		return nil
	})
}
