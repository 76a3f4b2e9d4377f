package ctlog_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/logtest"
	"github.com/transparency-dev/formats/note"
	xnote "golang.org/x/mod/sumdb/note"
)

// checkpoint is one of a static-ct-api log, which transparency-dev/formats reads.
func checkpoint(t testing.TB, l *fakeLog, origin string) string {
	t.Helper()
	root := sha256.Sum256([]byte("root"))
	sth := ct.SignedTreeHead{Version: ct.V1, TreeSize: 42, Timestamp: uint64(time.Now().UnixMilli()), SHA256RootHash: root}
	input, err := ct.SerializeSTHSignatureInput(sth)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := cttls.Marshal(l.signInput(t, input))
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(l.spki)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.RFC6962VerifierString("https://"+origin, public)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewRFC6962Verifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	raw := binary.BigEndian.AppendUint32(nil, verifier.KeyHash())
	raw = append(binary.BigEndian.AppendUint64(raw, sth.Timestamp), signed...)
	text := fmt.Sprintf("%s\n42\n%s\n\n— witness.example %s\n— %s %s\n", origin, base64.StdEncoding.EncodeToString(root[:]),
		base64.StdEncoding.EncodeToString(make([]byte, 76)), origin, base64.StdEncoding.EncodeToString(raw))
	if _, err := xnote.Open([]byte(text), xnote.VerifierList(verifier)); err != nil {
		t.Fatalf("the checkpoint of the test is not good: %v\n%s", err, text)
	}
	return text
}

func TestProbeVerifiesTheCheckpoint(t *testing.T) {
	l := newFakeLog(t)
	good := checkpoint(t, l, "log.example/2026")
	for name, c := range map[string]struct {
		text string
		want bool
	}{
		"good":             {good, true},
		"another key":      {checkpoint(t, newFakeLog(t), "log.example/2026"), false},
		"another size":     {strings.Replace(good, "\n42\n", "\n43\n", 1), false},
		"no size":          {strings.Replace(good, "\n42\n", "\nx\n", 1), false},
		"a negative size":  {strings.Replace(good, "\n42\n", "\n-1\n", 1), false},
		"a short root":     {strings.Replace(good, "\n42\n", "\n42\nAAAA", 1), false},
		"another origin":   {strings.ReplaceAll(good, "2026", "2027"), false},
		"no signature":     {good[:strings.Index(good, "— log.")], false},
		"one line more":    {strings.Replace(good, "\n\n", "\nextension\n\n", 1), false},
		"a witness only":   {good[:strings.LastIndex(good, "— ")], false},
		"nothing":          {"", false},
		"signatures alone": {"\n\n" + good, false},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || r.URL.Path != "/tiles/checkpoint" {
				t.Errorf("%s: got %s %s", name, r.Method, r.URL.Path)
			}
			_, _ = io.WriteString(w, c.text)
		}))
		r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: "http://127.0.0.1:1", MonitoringURL: server.URL + "/tiles/", PublicKey: l.spki})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Probe(t.Context()); (err == nil) != c.want {
			t.Errorf("%s: Probe: %v\n%s", name, err, c.text)
		}
		r.CloseIdleConnections()
		server.Close()
	}
}

func TestProbeAsksAnRFC6962Log(t *testing.T) {
	l, other := logtest.New(t, nil), logtest.New(t, nil)
	var missing string // a path that the server does not have
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if missing != "" && strings.HasPrefix(r.URL.Path, missing) {
			http.NotFound(w, r)
			return
		}
		l.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	probe := func(key []byte) error {
		r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: server.URL, PublicKey: key})
		if err != nil {
			t.Fatal(err)
		}
		defer r.CloseIdleConnections()
		return r.Probe(t.Context())
	}
	if err := probe(l.PublicKey()); err != nil {
		t.Errorf("a log that is well: %v", err)
	}
	if err := probe(other.PublicKey()); err == nil {
		t.Error("a log with another key answers a probe")
	}
	missing = "/ct/v1/get-sth"
	if err := probe(l.PublicKey()); err != nil {
		t.Errorf("a log that is read elsewhere: %v", err)
	}
	// Otherwise a log behind a proxy for submissions alone would rest for ever.
	missing = "/"
	if err := probe(l.PublicKey()); err != nil {
		t.Errorf("a log that cannot be probed: %v", err)
	}
	missing = ""
	for _, fault := range []logtest.Fault{logtest.Fails, logtest.Unavailable, logtest.Redirects, logtest.Cuts, logtest.Floods, logtest.Mumbles} {
		l.Set(fault)
		if err := probe(l.PublicKey()); err == nil {
			t.Errorf("%s: answers a probe", fault)
		}
	}
}

// TestProbeGoesToTheLogWhenItsTilesAreAway: the server of the tiles says nothing
// about whether the log takes entries.
func TestProbeGoesToTheLogWhenItsTilesAreAway(t *testing.T) {
	l := logtest.New(t, nil)
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: server.URL, MonitoringURL: "http://127.0.0.1:1/tiles", PublicKey: l.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.CloseIdleConnections()
	if err := r.Probe(t.Context()); err != nil {
		t.Errorf("Probe: %v", err)
	}
	l.Set(logtest.Fails)
	if err := r.Probe(t.Context()); err == nil {
		t.Error("a log that fails answers a probe")
	}
}
