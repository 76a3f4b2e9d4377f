package stack

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/logtest"
	"github.com/mayfly-ca/mayfly/internal/audit"
	"github.com/mayfly-ca/mayfly/internal/auditor"
)

// behindTheBack makes a precertificate as somebody does who has the CA key, and
// does not ask the service.
func (s *site) behindTheBack() ctlog.Submission {
	s.t.Helper()
	block, _ := pem.Decode(s.read("ca.key"))
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	s.must(err)
	caKey, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		s.t.Fatalf("ca.key is %T", parsed)
	}
	chain, err := ca.ParseChain(s.read("chain.pem"))
	s.must(err)
	key, now := newKey(s.t), time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(4711), NotBefore: now, NotAfter: now.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs: []*url.URL{{Scheme: "https", Host: "gitlab.corp.example", Path: "/thief"}},
	}
	sign := func() *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, chain[0], key.Public(), caKey)
		s.must(err)
		cert, err := x509.ParseCertificate(der)
		s.must(err)
		return cert
	}
	sub := ctlog.Submission{TBS: sign().RawTBSCertificate, IssuerKeyHash: sha256.Sum256(chain[0].RawSubjectPublicKeyInfo)}
	template.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: []byte{5, 0}}}
	sub.Precertificate = sign().Raw
	for _, c := range chain {
		sub.Issuers = append(sub.Issuers, c.Raw)
	}
	return sub
}

// auditedUpTo goes rounds until so many entries are proven.
func auditedUpTo(t *testing.T, r *running, n uint64) auditor.Report {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if a := r.auditing.Load(); a != nil {
			if report := a.Round(t.Context()); len(report.Logs) == 1 && report.Logs[0].Size >= n {
				return report
			}
		}
		select {
		case <-deadline:
			t.Fatalf("no head over %d entries: %+v", n, r.auditing.Load())
		case <-tick.C:
		}
	}
}

func TestACertificateBehindTheBackOfTheServiceIsAnAlarm(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	const issued = 3
	for range issued {
		if got := post(t, r.url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice")); got.status != http.StatusOK && got.status != http.StatusCreated {
			t.Fatalf("signingCert: %d %s", got.status, got.body)
		}
	}
	report := auditedUpTo(t, r, issued)
	if len(report.Alarms) != 0 || report.Logs[0].Ours != issued || report.Pending != 0 || report.Promised != 0 || !report.CaughtUp {
		t.Fatalf("after %d certificates: %+v", issued, report)
	}
	if !r.shown()["log_audit"] {
		t.Error("readiness shows an alarm, and there is none")
	}
	log, err := r.shards()[0].writer()
	s.must(err)
	if _, err := log.Submit(t.Context(), s.behindTheBack()); err != nil {
		t.Fatal(err)
	}
	report = auditedUpTo(t, r, issued+1)
	if len(report.Alarms) != 1 || report.Alarms[0].Class != auditor.Unexplained || !strings.Contains(report.Alarms[0].Text, "entry 3 ") {
		t.Fatalf("alarms %+v, want one about entry 3", report.Alarms)
	}
	if r.shown()["log_audit"] {
		t.Error("readiness shows no alarm")
	}
	// An alarm is no outage.
	if got := get(t, r.url+"/readyz"); got.status != http.StatusOK || !strings.Contains(string(got.body), `"log_audit":false`) {
		t.Errorf("readyz: %d %s", got.status, got.body)
	}
	families, err := r.registry.Gather()
	s.must(err)
	counted := 0.0
	for _, f := range families {
		if f.GetName() == "mayfly_auditor_unexplained_entries_total" {
			counted = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if counted != 1 {
		t.Errorf("mayfly_auditor_unexplained_entries_total is %v, want 1", counted)
	}
	s.must(r.stop())
	kinds := eventKinds(t, s)
	for _, want := range []string{"log.head", "log.alarm"} {
		if !slices.Contains(kinds, want) {
			t.Errorf("the journal has the events %q, want a %s", kinds, want)
		}
	}
	// The next process knows.
	again := s.run("")
	if report := auditedUpTo(t, again, issued+1); len(report.Alarms) != 1 {
		t.Errorf("after a restart, alarms %+v, want one", report.Alarms)
	}
}

func TestAnAuditorThatCannotWorkKeepsNobodyFromWorking(t *testing.T) {
	s := newSite(t)
	s.initLog()
	dir := AuditorDir(s.dir + "/state")
	held, err := auditor.Open(auditor.Config{Dir: dir, Targets: func() (auditor.Targets, error) { return auditor.Targets{}, nil }})
	s.must(err)
	defer func() { s.must(held.Close()) }()
	r := s.run("")
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for r.shown()["log_audit"] {
		select {
		case <-deadline:
			t.Fatal("readiness does not show that the logs are not audited")
		case <-tick.C:
		}
	}
	if got := get(t, r.url+"/readyz"); got.status != http.StatusOK {
		t.Errorf("readyz: %d %s", got.status, got.body)
	}
}

// TestAuditorSendsTheTokenToTheOriginOfTheURLAlone: whoever serves the tiles could
// submit in our name with it.
func TestAuditorSendsTheTokenToTheOriginOfTheURLAlone(t *testing.T) {
	s := newSite(t)
	seen := make(chan string, 1)
	serve := func() string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen <- r.Header.Get("Authorization")
			http.NotFound(w, r)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	log, elsewhere := serve(), serve()
	s.write("log.pub", logtest.New(t, nil).PublicKey())
	s.write("token", []byte("secret\n"))
	for _, c := range []struct{ monitoring, want string }{
		{"", "Bearer secret"}, {", monitoring_url: " + log + "/tiles", "Bearer secret"}, {", monitoring_url: " + elsewhere, ""},
	} {
		f := s.configure("127.0.0.1:1", "  - {name: far, remote: {url: "+log+", public_key: log.pub, token_file: token"+c.monitoring+"}}")
		targets, err := AuditTargets(f, nil)
		s.must(err)
		if _, err := targets.Logs[0].Source.Head(t.Context()); err == nil {
			t.Errorf("%q: a log without a head has one", c.monitoring)
		}
		if got := <-seen; got != c.want {
			t.Errorf("%q: the server saw %q, want %q", c.monitoring, got, c.want)
		}
	}
}

// eventKinds are the kinds of events in the service's journal.
func eventKinds(t *testing.T, s *site) (kinds []string) {
	t.Helper()
	if _, err := audit.Verify(s.dir + "/state/audit"); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(s.read("state/audit/journal-00000000000000000000.ndjson"))) {
		var record struct {
			Type string `json:"type"`
			Body struct {
				Kind string `json:"kind"`
			} `json:"body"`
		}
		s.must(json.Unmarshal([]byte(line), &record))
		if record.Type == "event" {
			kinds = append(kinds, record.Body.Kind)
		}
	}
	return kinds
}
