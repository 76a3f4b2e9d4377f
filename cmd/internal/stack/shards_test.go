package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

// publishedLog is a log of the trusted root, as clients read it.
type publishedLog struct {
	BaseURL   string
	PublicKey struct {
		RawBytes []byte
		ValidFor struct{ Start, End time.Time }
	}
}

func publishedLogs(t testing.TB, url string) []publishedLog {
	t.Helper()
	var root struct{ Ctlogs []publishedLog }
	a := get(t, url+"/trust/trusted_root.json")
	if err := json.Unmarshal(a.body, &root); err != nil || a.status != 200 {
		t.Fatalf("status %d, error %v: %s", a.status, err, a.body)
	}
	return root.Ctlogs
}

// loggedIn issues a certificate and returns which of the published logs its SCT is
// of, judged by certificate-transparency-go: signature, key and time.
func (s *site) loggedIn(url string, logs []publishedLog) string {
	s.t.Helper()
	a := post(s.t, url+"/api/v2/signingCert", s.token(nil), body(s.t, newKey(s.t), "alice@corp.example"))
	var v struct {
		SignedCertificateEmbeddedSct struct {
			Chain struct{ Certificates []string }
		}
	}
	if err := json.Unmarshal(a.body, &v); err != nil || a.status != 200 {
		s.t.Fatalf("status %d, error %v: %s", a.status, err, a.body)
	}
	var chain []*ctx509.Certificate
	for _, text := range v.SignedCertificateEmbeddedSct.Chain.Certificates {
		block, _ := pem.Decode([]byte(text))
		cert, err := ctx509.ParseCertificate(block.Bytes)
		if ctx509.IsFatal(err) {
			s.t.Fatal(err)
		}
		chain = append(chain, cert)
	}
	scts, err := x509util.ParseSCTsFromSCTList(&chain[0].SCTList)
	if err != nil || len(scts) != 1 {
		s.t.Fatalf("got SCTs %v, error %v, want one", scts, err)
	}
	for _, l := range logs {
		if sha256.Sum256(l.PublicKey.RawBytes) != scts[0].LogID.KeyID {
			continue
		}
		key, err := ctx509.ParsePKIXPublicKey(l.PublicKey.RawBytes)
		s.must(err)
		if err := ctutil.VerifySCT(key, chain, scts[0], true); err != nil {
			s.t.Fatalf("SCT of %s: %v", l.BaseURL, err)
		}
		at := time.UnixMilli(int64(scts[0].Timestamp))
		if r := l.PublicKey.ValidFor; at.Before(r.Start) || !r.End.IsZero() && at.After(r.End) {
			s.t.Fatalf("SCT of %s is of %s, and the log is trusted from %s to %s", l.BaseURL, at, r.Start, r.End)
		}
		return filepath.Base(l.BaseURL)
	}
	s.t.Fatalf("the SCT is of the log %x, and the trusted root has %+v", scts[0].LogID.KeyID, logs)
	return ""
}

func (r *running) shardStates() string {
	status, err := r.Logs(context.Background())
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, s := range status.Logs[0].Shards {
		all = append(all, s.Name+" "+string(s.State))
	}
	return strings.Join(all, ", ")
}

// A client that fetched the trust files before the rotation verifies what is
// issued after it, and the old shard ends with all that it promised.
func TestShardsFollowEachOther(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	f := r.current.Load().file
	if got := s.loggedIn(r.url, publishedLogs(t, r.url)); got != "local" {
		t.Fatalf("got a certificate in %s, want the only shard", got)
	}
	// Nobody who signs meanwhile is to notice anything.
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	token, request := s.token(nil), body(t, newKey(t), "alice@corp.example")
	for range 4 {
		workers.Go(func() {
			for ctx.Err() == nil {
				a, err := fetch(ctx, http.MethodPost, r.url+"/api/v2/signingCert", token, request)
				if ctx.Err() == nil && (err != nil || a.status != http.StatusOK) {
					t.Errorf("a request during the rotation: status %d, error %v: %s", a.status, err, a.body)
				}
			}
		})
	}
	defer workers.Wait()
	defer cancel()
	activate := time.Now().Add(6 * time.Second)
	made, err := MakeShard(t.Context(), f, "2027", activate)
	s.must(err)
	if _, err := r.Reload(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	published := publishedLogs(t, r.url)
	if len(published) != 2 || published[1].BaseURL != r.url+"/log/local-2027" || published[0].PublicKey.ValidFor.End.Sub(made.Info.Activate) != shardOverlap {
		t.Fatalf("got published logs %+v, want the old one until an hour after the new one has begun", published)
	}
	if got := s.loggedIn(r.url, published); got != "local" && time.Now().Before(activate) {
		t.Errorf("before the activation: got a certificate in %s, want local", got)
	}
	if got := r.shardStates(); got != "local writable, local-2027 waiting" && time.Now().Before(activate) {
		t.Errorf("before the activation: got %s", got)
	}
	eventually(t, "the new shard takes entries", func() bool { return s.loggedIn(r.url, published) == "local-2027" })
	if got := r.shardStates(); got != "local superseded, local-2027 writable" {
		t.Errorf("after the activation: got %s", got)
	}
	r.freezeDue(activate.Add(shardOverlap / 2))
	if got := r.shardStates(); got != "local superseded, local-2027 writable" {
		t.Errorf("half an hour later: got %s", got)
	}
	r.freezeDue(activate.Add(shardOverlap))
	if got := r.shardStates(); got != "local frozen, local-2027 writable" {
		t.Errorf("an hour later: got %s", got)
	}
	// Both are read as before, also by who opens the state directory anew.
	again := func(r *running) {
		t.Helper()
		for _, name := range []string{"local", "local-2027"} {
			if a := get(t, r.url+"/log/"+name+"/checkpoint"); a.status != 200 || bytes.HasPrefix(a.body, []byte("0\n")) {
				t.Errorf("checkpoint of %s: status %d: %s", name, a.status, a.body)
			}
		}
		if got := s.loggedIn(r.url, publishedLogs(t, r.url)); got != "local-2027" {
			t.Errorf("got a certificate in %s, want local-2027", got)
		}
	}
	again(r)
	cancel()
	workers.Wait()
	s.must(r.stop())
	for _, kind := range []string{"log.published", "log.frozen"} {
		if !bytes.Contains(s.read("state/audit/journal-00000000000000000000.ndjson"), []byte(`"kind":"`+kind+`"`)) {
			t.Errorf("the journal has no %s", kind)
		}
	}
	s.must(os.Remove(filepath.Join(LogDir(f.State, "local"), "log.key"))) // it has done its work
	again(s.reloading(Options{}))
	v, err := embedded.OpenView(LogDir(f.State, "local"))
	s.must(err)
	defer v.Close()
	if report, err := v.Check(t.Context(), embedded.CheckConfig{}); err != nil || len(report.Faults) > 0 || report.Entries == 0 {
		t.Errorf("the frozen shard: got %+v, error %v, want entries without fault", report, err)
	}
}

func TestReloadRefusesAShardThatClientsHaveNotHeardOf(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	f := r.current.Load().file
	_, err := MakeShard(t.Context(), f, "now", time.Now())
	s.must(err)
	if _, err := r.Reload(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "clients have not heard of its key") {
		t.Fatalf("got error %v, want a refusal", err)
	}
	if got := s.loggedIn(r.url, publishedLogs(t, r.url)); got != "local" {
		t.Errorf("got a certificate in %s, want local", got)
	}
	status, err := r.Logs(t.Context())
	s.must(err)
	if got := status.Logs[0].Shards[1].Problem; !strings.Contains(got, "mayfly reload") {
		t.Errorf("got problem %q of the new shard, want that it is not taken up", got)
	}
	s.must(r.stop())
	r = s.reloading(Options{})
	if got := s.loggedIn(r.url, publishedLogs(t, r.url)); got != "local-now" {
		t.Errorf("after a new start: got a certificate in %s, want local-now", got)
	}
}

// The way out of a damaged log must not depend on it.
func TestServiceStartsBesideADamagedShardThatIsOver(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	f := r.current.Load().file
	s.loggedIn(r.url, publishedLogs(t, r.url))
	s.must(r.stop())
	dir := LogDir(f.State, "local")
	s.must(os.RemoveAll(filepath.Join(dir, "sequence")))
	if _, err := Open(t.Context(), f, Options{}); err == nil || !strings.Contains(err.Error(), "the sequence file is gone") {
		t.Fatalf("got error %v, want that the shard in use is damaged", err)
	}
	_, err := MakeShard(t.Context(), f, "next", time.Now())
	s.must(err)
	r = s.reloading(Options{})
	logs := publishedLogs(t, r.url)
	if got := s.loggedIn(r.url, logs); got != "local-next" || len(logs) != 2 {
		t.Errorf("got a certificate in %s of %d logs, want local-next of two", got, len(logs))
	}
	if got := r.shardStates(); got != "local stopped, local-next writable" {
		t.Errorf("got %s", got)
	}
	if a := get(t, r.url+"/log/local/checkpoint"); a.status != 200 {
		t.Errorf("reading the damaged shard: status %d, want 200: %s", a.status, a.body)
	}
}

// A log alone in a process has no journal, and freezes all the same.
func TestLogServerFreezesShards(t *testing.T) {
	s := newLogSite(t)
	s.initShared("shared", time.Time{})
	s.initShared("shared-2", time.Now().Add(time.Minute))
	log := s.runLog(Options{})
	log.stack.freezeDue(time.Now().Add(time.Minute + shardOverlap))
	info, err := embedded.Inspect(LogDir(filepath.Join(s.dir, "log/state"), "shared"))
	if err != nil || info.Frozen.IsZero() {
		t.Errorf("got %+v, error %v, want a frozen log", info, err)
	}
	if got := s.status("/log/shared/checkpoint"); got != http.StatusOK {
		t.Errorf("reading the frozen shard: got status %d, want 200", got)
	}
}

func TestMakeShardRefusesFilesThatTheServiceCouldNotOpen(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 { // else it belongs to somebody who is not root already
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if err := belongsToUs(dir, 0); err == nil || !strings.Contains(err.Error(), "and you are root") {
		t.Errorf("root in a directory of the service's user: got error %v, want a refusal", err)
	}
	if err := belongsToUs(dir, 65534); err != nil {
		t.Errorf("the service's user in it: got error %v, want none", err)
	}
	if err := belongsToUs(filepath.Join(dir, "missing"), 0); err != nil {
		t.Errorf("root where there is nothing yet: got error %v, want none", err)
	}
}

// What is over may be removed, and a first shard is not made after the others.
func TestFirstShardIsRemovedWhenItIsOver(t *testing.T) {
	s := newSite(t)
	s.initLog()
	f := s.configure("127.0.0.1:1", "")
	_, err := MakeShard(t.Context(), f, "next", time.Now())
	s.must(err)
	first := LogDir(f.State, "local")
	s.must(os.Remove(filepath.Join(first, "log.pub")))
	if problems := Check(f, time.Now()); len(problems) != 1 || problems[0].Path != "logs[0].embedded" {
		t.Errorf("a shard without its public key: got problems %v, want one", problems)
	}
	s.must(os.RemoveAll(first))
	if problems := Check(f, time.Now()); len(problems) > 0 {
		t.Errorf("without the first shard: got problems %v, want none", problems)
	}
	if _, err := MakeShard(t.Context(), f, "", time.Time{}); err == nil || !strings.Contains(err.Error(), "mayfly log rotate makes the next one") {
		t.Errorf("making the first shard again: got error %v, want a refusal", err)
	}
}

// Replicas with a log each publish the same logs, and clients of either accept the
// certificates of both.
func TestReplicasTrustEachOthersLogs(t *testing.T) {
	a, b := newSite(t), newSite(t)
	for _, file := range []string{"chain.pem", "ca.key"} {
		b.write(file, a.read(file))
	}
	var listeners [2]net.Listener
	var entries [2]string
	for i, s := range []*site{a, b} {
		listeners[i] = listen(t)
		address, name := listeners[i].Addr().String(), fmt.Sprintf("log-%d", i)
		made, err := MakeShard(t.Context(), s.configure(address, "  - {name: "+name+", embedded: {}}"), "", time.Time{})
		s.must(err)
		for _, other := range []*site{a, b} {
			data, err := os.ReadFile(made.Info.PublicKeyFile)
			s.must(err)
			other.write(name+".pub", data)
		}
		entries[i] = fmt.Sprintf("  - {name: replica-%d, url: http://%s/log/%s, public_key: %s.pub, from: %s}\n", i, address, name, name, made.Info.Created.Format(time.RFC3339Nano))
	}
	// The list is the same at both, each one's own log included.
	trusted := "\ntrusted_logs:\n" + entries[0] + entries[1]
	var urls [2]string
	for i, s := range []*site{a, b} {
		f := s.configure(listeners[i].Addr().String(), fmt.Sprintf("  - {name: log-%d, embedded: {}}", i)+trusted)
		urls[i] = s.start(f, Options{Listener: listeners[i]}).url
	}
	one, two := publishedLogs(t, urls[0]), publishedLogs(t, urls[1])
	if x, y := fmt.Sprint(one), fmt.Sprint(two); x != y || len(one) != 2 {
		t.Fatalf("got logs\n%s\nand\n%s\nwant the same two", x, y)
	}
	if got := a.loggedIn(urls[0], two); got != "log-0" {
		t.Errorf("got %s, want log-0", got)
	}
	if got := b.loggedIn(urls[1], one); got != "log-1" {
		t.Errorf("got %s, want log-1", got)
	}
}

func TestTrustedLogsThatClientsCouldNotUseAreProblems(t *testing.T) {
	s := newSite(t)
	s.initLog()
	s.write("not.pub", []byte("not a key"))
	const entry = embeddedLogs + "\ntrusted_logs: [{name: b, url: https://b.example/log, public_key: not.pub, from: 2026-01-01T00:00:00Z}]"
	problems := Check(s.configure("127.0.0.1:1", entry), time.Now())
	if len(problems) != 1 || problems[0].Path != "trusted_logs[0].public_key" {
		t.Errorf("got problems %v, want one at trusted_logs[0].public_key", problems)
	}
}

// With its key on a token, a log's directory holds no secret, and a second shard
// wants a second key.
func TestLogKeysOnAToken(t *testing.T) {
	_, token := faultyToken(t, newKey(t))
	s := newSite(t)
	ln := listen(t)
	configure := func(object string) *config.File {
		return s.configure(ln.Addr().String(), fmt.Sprintf(`  - {name: local, embedded: {checkpoint_record: record, key: {tokens: [hsm-a], object: %s}}}
tokens: [{name: hsm-a, module: %s, label: %s, pin_file: %s, max_sessions: 4}]`, object, token.Module, token.Label, token.PINFile))
	}
	f := configure("ca")
	made, err := MakeShard(t.Context(), f, "", time.Time{})
	s.must(err)
	if _, err := os.Stat(filepath.Join(made.Dir, "log.key")); err == nil {
		t.Error("got a log.key beside a key on a token, want none")
	}
	if _, err := MakeShard(t.Context(), f, "next", time.Now()); err == nil || !strings.Contains(err.Error(), "this is the key of local") {
		t.Errorf("a second shard with the same key: got error %v, want a refusal", err)
	}
	_, err = pkcs11.Generate(t.Context(), keys.TokenConfig(token), pkcs11.GenerateConfig{Object: "log-2", Algorithm: "ecdsa-p256"})
	s.must(err)
	f = configure("log-2")
	activate := time.Now().Add(2 * time.Second)
	_, err = MakeShard(t.Context(), f, "next", activate)
	s.must(err)
	r := s.start(f, Options{Listener: ln})
	published := publishedLogs(t, r.url)
	s.loggedIn(r.url, published)
	eventually(t, "the shard with the second key takes entries", func() bool { return s.loggedIn(r.url, published) == "local-next" })
	status, err := r.Logs(t.Context())
	s.must(err)
	for i, want := range []struct{ record, key string }{
		{filepath.Join(s.dir, "record"), "tokens [hsm-a], object ca"},
		{filepath.Join(s.dir, "record-next"), "tokens [hsm-a], object log-2"},
	} {
		if got := status.Logs[0].Shards[i]; got.Record != want.record || got.RecordProblem != "" || got.Key != want.key {
			t.Errorf("got shard %+v, want its key as %q and its checkpoint in %s", got, want.key, want.record)
		}
	}
	if problems := CheckOnline(t.Context(), f, time.Now()); len(problems) > 0 {
		t.Errorf("asking the tokens: got problems %v, want none", problems)
	}
	other := *f
	other.Tokens = nil
	if problems := CheckOnline(t.Context(), &other, time.Now()); len(problems) != 2 || problems[0].Path != "logs[0].embedded" {
		t.Errorf("asking tokens that are not configured any more: got problems %v, want one for each shard", problems)
	}
	// RSA and P-384 keys are for CAs, not for logs.
	_, err = pkcs11.Generate(t.Context(), keys.TokenConfig(token), pkcs11.GenerateConfig{Object: "p384", Algorithm: "ecdsa-p384"})
	s.must(err)
	if _, err := MakeShard(t.Context(), configure("p384"), "third", activate.Add(time.Hour)); err == nil || !strings.Contains(err.Error(), "not ECDSA P-256") {
		t.Errorf("a P-384 key: got error %v, want a refusal", err)
	}
}
