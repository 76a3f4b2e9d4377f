package stack

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/logtest"
	"github.com/mayfly-ca/mayfly/internal/audit"
)

// remoteLog serves a log that breaks rules when told to, and returns the entry of
// the configuration for it.
func (s *site) remoteLog() (*logtest.Log, string) {
	s.t.Helper()
	l := logtest.New(s.t, nil)
	server := httptest.NewServer(l)
	s.t.Cleanup(server.Close)
	s.write("log.pub", l.PublicKey())
	return l, "  - {name: far, remote: {url: " + server.URL + ", public_key: log.pub}}"
}

// ask asks for a certificate.
func (r *running) ask(s *site) answer {
	s.t.Helper()
	return post(s.t, r.url+"/api/v2/signingCert", s.token(nil), body(s.t, newKey(s.t), "alice@corp.example"))
}

// awaitLog waits until some log is ready.
func (r *running) awaitLog(t testing.TB) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for r.current.Load().log.Ready() != nil {
		select {
		case <-deadline:
			t.Fatalf("not ready: %v", r.current.Load().log.Ready())
		case <-tick.C:
		}
	}
}

// wantLogOutage is the answer when no log gives an SCT. It returns after how many
// seconds the client may ask again.
func wantLogOutage(t testing.TB, a answer) int {
	t.Helper()
	code, message := reason(t, a)
	wait, err := strconv.Atoi(a.header.Get("Retry-After"))
	if a.status != http.StatusServiceUnavailable || code != "log_unavailable" || message != "Error entering certificate in CTL" ||
		err != nil || wait < 1 || wait > 30 || bytes.Contains(a.body, []byte("CERTIFICATE")) {
		t.Errorf("got %d %q %q, Retry-After %q, %s; want 503, log_unavailable, 1 to 30 and no certificate",
			a.status, code, message, a.header.Get("Retry-After"), a.body)
	}
	return wait
}

// wantJournal stops the service. One of those that were not issued is that of the
// self-test.
func (r *running) wantJournal(s *site, issued, notIssued int) {
	s.t.Helper()
	s.must(r.stop())
	report, err := audit.Verify(auditDir(filepath.Join(s.dir, "state")))
	if err != nil || int(report.Issued) != issued || int(report.NotIssued) != notIssued+1 || len(report.Open) != 0 {
		s.t.Errorf("journal: %+v, %v; want %d issued, %d not, beside the self-test, and none open", report, err, issued, notIssued)
	}
}

func TestNoCertificateWhenTheLogIsOut(t *testing.T) {
	for _, fault := range append([]logtest.Fault{logtest.Overloaded, logtest.OverloadedLong}, logtest.Outages...) {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel() // some wait for a log that hangs
			s := newSite(t)
			l, entry := s.remoteLog()
			r := s.run(entry)
			l.Set(fault)
			start := time.Now()
			wantLogOutage(t, r.ask(s))
			// The bound is 2.5 s for the log and 4 s for all; clients give up at 5.
			if took := time.Since(start); took > 4500*time.Millisecond {
				t.Errorf("took %v", took)
			}
			l.Set(logtest.None)
			if a := r.ask(s); a.status != http.StatusOK {
				t.Errorf("one failure later: got %d %s, want a certificate", a.status, a.body)
			}
			r.wantJournal(s, 1, 1)
		})
	}
}

func TestNoCertificateForALie(t *testing.T) {
	for _, fault := range logtest.Lies {
		t.Run(string(fault), func(t *testing.T) {
			s := newSite(t)
			l, entry := s.remoteLog()
			r := s.run(entry)
			l.Set(fault)
			wantLogOutage(t, r.ask(s))
			// The log rests now: no intent, no signature, no request to the log. It
			// answers no probe, so that this is so however slow the machine is.
			l.Set(logtest.Unavailable)
			first := wantLogOutage(t, r.ask(s))
			for range 2 {
				wantLogOutage(t, r.ask(s))
			}
			if first > 4 {
				t.Errorf("the first rest is 1s to 2s, and the client is told to wait for %ds", first)
			}
			if n := l.Submissions(); n != 1 {
				t.Errorf("the log got %d submissions, want 1", n)
			}
			r.wantJournal(s, 0, 1)
		})
	}
}

func TestIssuanceHealsWithTheLog(t *testing.T) {
	s := newSite(t)
	l, entry := s.remoteLog()
	r := s.run(entry)
	l.Set(logtest.Fails)
	for range 5 {
		wantLogOutage(t, r.ask(s))
	}
	asked := l.Submissions()
	start := time.Now()
	wantLogOutage(t, r.ask(s))
	// Nobody waits for a log at rest; the machine may be slow.
	if took := time.Since(start); took > 2*time.Second || l.Submissions() != asked {
		t.Errorf("took %v and %d submissions, want to be refused at once", took, l.Submissions()-asked)
	}
	if a := get(t, r.url+"/readyz"); a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), `"log":false`) {
		t.Errorf("readyz %d %s, want the log not ready", a.status, a.body)
	}
	l.Set(logtest.None)
	r.awaitLog(t)
	if l.Submissions() != asked {
		t.Error("somebody's submission found out that the log is well, and not a probe")
	}
	if a := r.ask(s); a.status != http.StatusOK {
		t.Errorf("after it healed: got %d %s", a.status, a.body)
	}
	r.wantJournal(s, 1, 5)
}

func TestTheLogInTheBoxTakesOver(t *testing.T) {
	s := newSite(t)
	s.initLog()
	l, entry := s.remoteLog()
	r := s.run(entry + "\n" + embeddedLogs)
	if a := get(t, r.url+"/trust/trusted_root.json"); strings.Count(string(a.body), "hashAlgorithm") != 2 {
		t.Errorf("the trust root does not name two logs:\n%s", a.body)
	}
	for _, fault := range []logtest.Fault{logtest.None, logtest.Fails, logtest.WrongKey} {
		l.Set(fault)
		if a := r.ask(s); a.status != http.StatusOK {
			t.Errorf("%q: got %d %s, want a certificate", fault, a.status, a.body)
		}
	}
	if journal := s.journal(); strings.Count(journal, `"sct":{"log":"local"`) != 2 || strings.Count(journal, `"sct":{"log":"far"`) != 1 {
		t.Errorf("want one SCT of the remote log and two of the one in the box in the journal:\n%s", journal)
	}
	r.wantJournal(s, 3, 0)
}

// What is known of the logs outlives a reload that changes nothing about them.
func TestReloadKeepsOrReplacesThePool(t *testing.T) {
	s := newSite(t)
	l, entry := s.remoteLog()
	ln := listen(t)
	f := s.configure(ln.Addr().String(), entry)
	r := s.start(f, Options{Listener: ln, Load: func() (*config.File, error) { return config.Load(f.Path, nil) }})
	before := r.current.Load().log
	l.Set(logtest.Mumbles)
	wantLogOutage(t, r.ask(s))
	_, err := r.Reload(t.Context(), "test")
	s.must(err)
	if r.current.Load().log != before {
		t.Error("a reload of the same file forgot what is known of the logs")
	}
	s.edit("public_key: log.pub}", "public_key: log.pub, timeout: 1s}")
	_, err = r.Reload(t.Context(), "test")
	s.must(err)
	l.Set(logtest.None)
	if a := r.ask(s); a.status != http.StatusOK || r.current.Load().log == before {
		t.Errorf("after another timeout: got %d %s, want a certificate from a new pool", a.status, a.body)
	}
	r.wantJournal(s, 1, 3) // with the self-tests of the reloads
}

func TestCheckReadsTheCredentialsForALog(t *testing.T) {
	s := newSite(t)
	_, entry := s.remoteLog()
	f := s.configure("127.0.0.1:1", strings.Replace(entry, "public_key: log.pub",
		"public_key: log.pub, client_certificate: chain.pem, client_key: ca.key, token_file: token", 1))
	s.write("token", []byte("two words"))
	problems := Check(f, time.Now())
	if len(problems) != 1 || !hasProblem(problems, "logs[0].remote", "token") {
		t.Errorf("got %v, want that the token is none", problems)
	}
	s.write("token", []byte("word\n"))
	if problems := Check(f, time.Now()); len(problems) != 0 {
		t.Errorf("got %v, want no problem", problems)
	}
	s.write("ca.key", []byte("junk"))
	if problems := Check(f, time.Now()); !hasProblem(problems, "logs[0].remote", "client certificate") {
		t.Errorf("got %v, want that the client certificate has no key", problems)
	}
	for _, file := range followed(f) {
		if strings.HasSuffix(file, "token") {
			t.Error("a renewed token reloads the configuration")
		}
	}
}
