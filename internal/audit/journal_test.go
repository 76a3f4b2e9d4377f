package audit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/ca"
)

func newDir(t testing.TB) string { return filepath.Join(t.TempDir(), "journal") }

func TestJournalTellsTheStoryOfACertificate(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	seq := mustIntent(t, j, 1)
	mustOutcome(t, j, issued(seq, 1))
	closeJournal(t, j)

	rs := records(t, dir)
	var types []string
	for i, r := range rs {
		types = append(types, r.Type)
		if r.Seq != uint64(i) || r.Node != "ca-1" || r.Time != "2026-11-22T10:00:00.123456789Z" {
			t.Errorf("record %d has seq %d, node %q, time %q", i, r.Seq, r.Node, r.Time)
		}
	}
	if want := []string{"genesis", "intent", "outcome", "closed"}; !reflect.DeepEqual(types, want) {
		t.Fatalf("types of records are %q, want %q", types, want)
	}
	for path, want := range map[string]any{
		"request.id": "req-1", "request.api": "rest-v2", "request.source": "192.0.2.7",
		"request.config_digest": "01" + strings.Repeat("00", 31),
		"identity.issuer_name":  "gitlab", "identity.issuer": "https://gitlab.example",
		"identity.subject": "repo:a/b", "identity.email": "dev@example.com", "identity.email_verified": false,
		"token.digest": "02" + strings.Repeat("00", 31), "token.kid": "k1", "token.key_thumbprint": "thumb",
		"token.jti": "jti-1", "token.azp": "ci", "token.stale_keys": true,
		"token.iat": "2026-11-22T09:59:00.123456789Z", "token.exp": "2026-11-22T10:01:00.123456789Z",
		"key.kind": "ecdsa-p256", "key.proof": "signature",
		"decision.rule": "developers", "decision.san_kind": "email", "decision.san": "dev@example.com",
		"certificate.serial": "4000000000000000000000000000000000000001", "certificate.chain": "2026",
		"certificate.tbs_sha256": "05" + strings.Repeat("00", 31), "certificate.not_after": "2026-11-22T10:09:00.123456789Z",
	} {
		if got := at(rs[1].Body, path); got != want {
			t.Errorf("intent has %s = %v, want %v", path, got, want)
		}
	}
	for path, want := range map[string]any{
		"intent": 1.0, "result": "issued", "logged": true, "sct.log": "box", "sct.index": 12.0,
		"certificate_sha256": "06" + strings.Repeat("00", 31),
	} {
		if got := at(rs[2].Body, path); got != want {
			t.Errorf("outcome has %s = %v, want %v", path, got, want)
		}
	}
	report := mustVerify(t, dir)
	if report.Records != 4 || report.Intents != 1 || report.Issued != 1 || len(report.Open) != 0 {
		t.Errorf("report %+v, want 4 records, 1 intent, 1 issued, none open", report)
	}
}

// at finds a value by a dotted path.
func at(body map[string]any, path string) any {
	var v any = body
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func TestJournalKeepsTokensAndClaimsOut(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	mustIntent(t, j, 1)
	if err := j.Refused(t.Context(), request(t), decision(t), ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no")); err != nil {
		t.Fatal(err)
	}
	closeJournal(t, j)
	for _, line := range lines(t, dir) {
		for _, secret := range []string{tokenText, "claim value"} {
			if bytes.Contains(line, []byte(secret)) {
				t.Errorf("%q stands in the record %s", secret, line)
			}
		}
	}
}

// Peers had entries forged by subjects with line breaks.
func TestHostileTextStaysInItsString(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	hostile := "x\n{\"v\":1}\r\u2028\x1b[2J\x00\xff\xfe\",\"body\":{},\"sum\":\""
	i := intent(t, 1)
	i.Request.Identity.Subject, i.Request.ID, i.Chain = hostile, hostile, hostile
	seq, err := j.Intent(t.Context(), i)
	if err != nil {
		t.Fatalf("Intent: %v", err)
	}
	mustOutcome(t, j, ca.Outcome{Intent: seq, Serial: serial(1), Err: ca.Refuse(ca.KindInternal, ca.ReasonInternal, "%s", hostile)})
	closeJournal(t, j)
	if r := mustVerify(t, dir); r.Records != 4 {
		t.Errorf("journal has %d records, want 4", r.Records)
	}
	want := strings.ToValidUTF8(hostile, "\ufffd")
	want = strings.Replace(want, "\ufffd", "\ufffd\ufffd", 1) // one for each bad byte
	if got := at(records(t, dir)[1].Body, "identity.subject"); got != want {
		t.Errorf("subject reads %q, want %q", got, want)
	}
}

func TestOutcomeMustCloseAnOpenIntent(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	seq := mustIntent(t, j, 1)
	for _, c := range []struct {
		name string
		o    ca.Outcome
	}{
		{"of the genesis", issued(0, 1)},
		{"of a record that is not there", issued(99, 1)},
		{"with another serial", issued(seq, 2)},
	} {
		if err := j.Outcome(t.Context(), c.o); err == nil {
			t.Errorf("Outcome %s succeeded", c.name)
		}
	}
	mustOutcome(t, j, issued(seq, 1))
	if err := j.Outcome(t.Context(), issued(seq, 1)); err == nil {
		t.Error("a second Outcome of one intent succeeded")
	}
	if err := j.Ready(); err != nil {
		t.Errorf("Ready() after wrong outcomes = %v, want nil", err)
	}
	closeJournal(t, j)
	mustVerify(t, dir)
}

func TestOneProcessOwnsTheJournal(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	if _, err := Open(t.Context(), config(dir)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second Open: %v, want that another process has the journal", err)
	}
	closeJournal(t, j)
	closeJournal(t, openJournal(t, config(dir)))
}

func TestClosedJournalRefuses(t *testing.T) {
	j := openJournal(t, config(newDir(t)))
	seq := mustIntent(t, j, 1)
	closeJournal(t, j)
	closeJournal(t, j)
	if _, err := j.Intent(t.Context(), intent(t, 2)); !errors.Is(err, errClosed) {
		t.Errorf("Intent after Close: %v, want %v", err, errClosed)
	}
	if err := j.Outcome(t.Context(), issued(seq, 1)); !errors.Is(err, errClosed) {
		t.Errorf("Outcome after Close: %v, want %v", err, errClosed)
	}
	if err := j.Refused(t.Context(), request(t), decision(t), ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no")); !errors.Is(err, errClosed) {
		t.Errorf("Refused after Close: %v, want %v", err, errClosed)
	}
	if err := j.Event(t.Context(), "x"); !errors.Is(err, errClosed) {
		t.Errorf("Event after Close: %v, want %v", err, errClosed)
	}
	if err := j.Ready(); !errors.Is(err, errClosed) {
		t.Errorf("Ready after Close: %v, want %v", err, errClosed)
	}
}

func TestConcurrentLoadKeepsTheChain(t *testing.T) {
	dir := newDir(t)
	c := config(dir)
	c.SegmentBytes = 40_000
	reg := prometheus.NewRegistry()
	c.Registerer = reg
	j := openJournal(t, c)
	const workers, each = 32, 20
	var wg sync.WaitGroup
	for w := range uint64(workers) {
		wg.Go(func() {
			for i := range uint64(each) {
				n := w*each + i
				seq, err := j.Intent(t.Context(), intent(t, n))
				if err != nil {
					t.Errorf("Intent %d: %v", n, err)
					return
				}
				if err := j.Outcome(t.Context(), issued(seq, n)); err != nil {
					t.Errorf("Outcome %d: %v", n, err)
				}
				j.CountRefusal(ca.ReasonExpired)
				_ = j.LastTime()
				_, _ = j.Head()
				if err := j.Ready(); err != nil {
					t.Errorf("Ready under load: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := Verify(dir); err != nil {
		t.Errorf("Verify beside the service: %v", err)
	}
	closeJournal(t, j)
	seq, hash := j.Head()
	r := mustVerify(t, dir, Head{seq, hash})
	if r.Intents != workers*each || r.Issued != workers*each || r.Segments < 5 || r.Head != (Head{seq, hash}) {
		t.Errorf("report %+v, want %d intents, all issued, many segments, head %d", r, workers*each, seq)
	}
	if got := testutil.ToFloat64(j.metrics.records.WithLabelValues(typeIntent)); got != workers*each {
		t.Errorf("mayfly_audit_records_total{type=intent} = %v, want %d", got, workers*each)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics lint: %v %v", problems, err)
	}
	closeJournal(t, openJournal(t, config(dir)))
	mustVerify(t, dir, Head{seq, hash})
}

func TestFilesArePrivate(t *testing.T) {
	dir := newDir(t)
	closeJournal(t, openJournal(t, config(dir)))
	for path, want := range map[string]os.FileMode{
		dir: 0o700, filepath.Join(dir, segmentName(0)): 0o600, filepath.Join(dir, lockName): 0o600,
	} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", path, st.Mode().Perm(), err, want)
		}
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config(dir)); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("Open in a directory of mode 0770: %v, want a refusal that says what to run", err)
	}
}

func TestEventsAreRecorded(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	if err := j.Event(t.Context(), "config.loaded",
		slog.String("digest", "abc"), slog.Int("issuers", 3), slog.Bool("logs_disabled", true),
		slog.Duration("took", 1500*time.Millisecond), slog.Time("at", testTime), slog.Any("chains", []string{"a", "b"}),
		slog.Any("err", errors.New("what went wrong")), slog.Group("build", slog.String("version", "v1")),
		slog.Any("identity", request(t).Identity), // a LogValuer: only what it shows
	); err != nil {
		t.Fatalf("Event: %v", err)
	}
	for name, attrs := range map[string][]slog.Attr{
		"a map":          {slog.Any("claims", map[string]any{"token": tokenText})},
		"raw bytes":      {slog.Any("raw", []byte(tokenText))},
		"given twice":    {slog.String("a", "1"), slog.String("a", "2")},
		"without a name": {slog.String("", "1")},
		"no value":       {slog.Any("a", nil)},
	} {
		if err := j.Event(t.Context(), "x", attrs...); err == nil {
			t.Errorf("Event with an attribute that is %s succeeded", name)
		}
	}
	for _, kind := range []string{"", "two words", "line\nbreak", strings.Repeat("x", 65)} {
		if err := j.Event(t.Context(), kind); err == nil {
			t.Errorf("Event of kind %q succeeded", kind)
		}
	}
	closeJournal(t, j)
	events := ofType(records(t, dir), typeEvent)
	if len(events) != 1 {
		t.Fatalf("%d events recorded, want 1: %v", len(events), events)
	}
	want := map[string]any{
		"kind": "config.loaded",
		"facts": map[string]any{
			"digest": "abc", "issuers": 3.0, "logs_disabled": true, "took": "1.5s",
			"at": "2026-11-22T10:00:00.123456789Z", "chains": []any{"a", "b"}, "err": "what went wrong",
			"build":    map[string]any{"version": "v1"},
			"identity": map[string]any{"issuer": "gitlab", "subject": "repo:a/b"},
		},
	}
	if !reflect.DeepEqual(events[0].Body, want) {
		t.Errorf("event reads %v, want %v", events[0].Body, want)
	}
}

func TestLastTimeIsTheLatestEver(t *testing.T) {
	dir := newDir(t)
	now := testTime
	c := config(dir)
	c.Clock = func() time.Time { return now }
	j := openJournal(t, c)
	now = testTime.Add(time.Hour)
	seq := mustIntent(t, j, 1)
	now = testTime.Add(time.Minute)
	mustOutcome(t, j, issued(seq, 1))
	if got, want := j.LastTime(), testTime.Add(time.Hour); !got.Equal(want) {
		t.Errorf("LastTime() = %v, want %v", got, want)
	}
	closeJournal(t, j)
	if r := mustVerify(t, dir); r.ClockSteps != 1 {
		t.Errorf("report shows %d steps of the clock, want 1", r.ClockSteps)
	}
	now = testTime
	j = openJournal(t, c)
	if got, want := j.LastTime(), testTime.Add(time.Hour); !got.Equal(want) {
		t.Errorf("LastTime() after a restart = %v, want %v", got, want)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no directory":       func(c *Config) { c.Dir = "" },
		"no node":            func(c *Config) { c.Node = "" },
		"node with a quote":  func(c *Config) { c.Node = `a","x":"` },
		"floor over reserve": func(c *Config) { c.FloorBytes = c.ReserveBytes + 1 },
		"negative segment":   func(c *Config) { c.SegmentBytes = -1 },
		"parent is missing":  func(c *Config) { c.Dir += "/a/b" },
	} {
		c := config(newDir(t))
		change(&c)
		if j, err := Open(context.Background(), c); err == nil {
			t.Errorf("%s: Open succeeded", name)
			_ = j.Close(context.Background())
		}
	}
}
