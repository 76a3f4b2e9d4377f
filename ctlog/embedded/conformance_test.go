package embedded

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	f_note "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// A Go client verifies the SCT knowing only the precertificate and its chain.
func TestSCTsVerifyWithCertificateTransparencyGo(t *testing.T) {
	ca := testca.New(t)
	dir, info := initLog(t)
	l := openLog(t, testConfig(t, dir))
	public, err := x509.ParsePKIXPublicKey(info.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := ct.NewSignatureVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	for want := range int64(3) {
		s := ca.Precertificate(t)
		sct := submit(t, l, s)
		raw, err := sct.MarshalTLS()
		if err != nil {
			t.Fatal(err)
		}
		var parsed ct.SignedCertificateTimestamp
		if rest, err := cttls.Unmarshal(raw, &parsed); err != nil || len(rest) != 0 {
			t.Fatalf("reading SCT %x: %v, rest %x", raw, err, rest)
		}
		chain := []ct.ASN1Cert{{Data: s.Precertificate}, {Data: s.Issuers[0]}, {Data: s.Issuers[1]}}
		leaf, err := ct.MerkleTreeLeafFromRawChain(chain, ct.PrecertLogEntryType, parsed.Timestamp)
		if err != nil {
			t.Fatal(err)
		}
		leaf.TimestampedEntry.Extensions = parsed.Extensions
		if err := verifier.VerifySCTSignature(parsed, ct.LogEntry{Leaf: *leaf}); err != nil {
			t.Errorf("entry %d: %v", want, err)
		}
		if sct.Index != want || sct.LogID != info.LogID || sct.Log != "test" {
			t.Errorf("got SCT %+v, want index %d", sct, want)
		}
		if sct.Timestamp.Before(l.Created()) {
			t.Errorf("the SCT is of %s, before the log was made at %s", sct.Timestamp, l.Created())
		}
	}
}

func TestCheckpointsVerifyWithTransparencyDevFormats(t *testing.T) {
	ca := testca.New(t)
	dir, info := initLog(t)
	fill(t, testConfig(t, dir), ca, 2)
	raw, err := os.ReadFile(filepath.Join(dir, treeDir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(info.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := f_note.RFC6962VerifierString("https://"+testOrigin, public)
	if err != nil {
		t.Fatal(err)
	}
	v, err := f_note.NewRFC6962Verifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		t.Fatalf("opening %q: %v", raw, err)
	}
	if !strings.HasPrefix(opened.Text, testOrigin+"\n2\n") {
		t.Fatalf("got checkpoint %q, want two entries", opened.Text)
	}
}

func get(t *testing.T, h http.Handler, method, path string) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "http://log.example/", nil)
	r.URL.Path = path // as it comes, without the client's cleaning
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestReadHandlerServesTheTreeAndNothingElse(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	l := openLog(t, testConfig(t, dir))
	s := ca.Precertificate(t)
	submit(t, l, s)
	eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
	fingerprint := fingerprints(s.Issuers)[0]
	issuer := "/issuer/" + hex.EncodeToString(fingerprint[:])
	h := l.ReadHandler()
	const forever = "public, max-age=31536000, immutable"
	for path, want := range map[string][2]string{
		"/checkpoint":        {"text/plain; charset=utf-8", "no-cache"},
		"/tile/0/000.p/1":    {"application/octet-stream", forever},
		"/tile/data/000.p/1": {"application/octet-stream", forever},
		issuer:               {"application/pkix-cert", forever},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			resp := get(t, h, method, path)
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != want[0] || resp.Header.Get("Cache-Control") != want[1] {
				t.Errorf("%s %s: %d %v, want 200 %v", method, path, resp.StatusCode, resp.Header, want)
			}
		}
	}
	if body, _ := io.ReadAll(get(t, h, http.MethodGet, issuer).Body); string(body) != string(s.Issuers[0]) {
		t.Errorf("%s: got %x, want the issuing certificate", issuer, body)
	}
	// A tile that no checkpoint covers, as a batch in flight leaves it.
	ahead := filepath.Join(dir, treeDir, "tile/data/000.p/2")
	if err := os.WriteFile(ahead, []byte("unacknowledged"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, treeDir, "issuer", strings.Repeat("0", 64))
	if err := os.Symlink(filepath.Join(dir, keyFile), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/", "", "/tile/data/000.p/2", "/tile/0/000", "/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/0/000.p", "/tile/0/x000/000.p/1",
		"/tile/00/000.p/1", "/tile/entries/000.p/1", "/tile/0/../../../log.key", "/../log.key", "/log.key", "/instance.json",
		"/.state/treeState", "/tile", "/issuer", "/issuer/", "/issuer/" + strings.ToUpper(issuer[8:]), "/issuer/../checkpoint",
		"//checkpoint", "/checkpoint/", "/tile/0/000.p/1\x00", "/issuer/" + strings.Repeat("0", 64), "/issuer/" + strings.Repeat("1", 64),
	} {
		resp := get(t, h, http.MethodGet, path)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode == http.StatusOK || strings.Contains(string(body), "PRIVATE") {
			t.Errorf("GET %q: %d %q, want a refusal", path, resp.StatusCode, body)
		}
		if resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("GET %q: a refusal may be cached: %v", path, resp.Header)
		}
	}
	if resp := get(t, h, http.MethodPost, "/checkpoint"); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") == "" {
		t.Errorf("POST: %d, want 405", resp.StatusCode)
	}
}

func TestVerifyInclusionRefuses(t *testing.T) {
	ca := testca.New(t)
	dir, info := initLog(t)
	_, other := initLog(t)
	l := openLog(t, testConfig(t, dir))
	server := httptest.NewServer(l.ReadHandler())
	defer server.Close()
	s, foreign := ca.Precertificate(t), ca.Precertificate(t)
	sct, second := submit(t, l, s), submit(t, l, foreign)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	verify := func(key []byte, origin string, of *testEntry) error {
		return VerifyInclusion(ctx, server.URL, server.Client(), key, origin, of.sct, of.s)
	}
	good := &testEntry{s, sct}
	if err := verify(info.PublicKey, testOrigin, good); err != nil {
		t.Fatalf("the entry itself: %v", err)
	}
	swapped := &testEntry{foreign, sct}
	if err := verify(info.PublicKey, testOrigin, swapped); err == nil {
		t.Error("accepted another submission at the same index")
	}
	moved := &testEntry{s, sct}
	moved.sct.Index = second.Index
	if err := verify(info.PublicKey, testOrigin, moved); err == nil {
		t.Error("accepted the entry at another's index")
	}
	if err := verify(other.PublicKey, testOrigin, good); err == nil {
		t.Error("accepted another log's key")
	}
	if err := verify(info.PublicKey, "log.example.com/2027", good); err == nil {
		t.Error("accepted another origin")
	}
	expired, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	later := &testEntry{s, sct}
	later.sct.Index = 1000
	err := VerifyInclusion(expired, server.URL, server.Client(), info.PublicKey, testOrigin, later.sct, later.s)
	if err == nil {
		t.Error("accepted an index beyond the tree")
	}
}

func TestMetricsSurviveOpeningAgain(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	registry := prometheus.NewPedanticRegistry()
	c := testConfig(t, dir)
	c.Registerer = registry
	for range 2 {
		l := openLog(t, c)
		submit(t, l, ca.Precertificate(t))
		if n, err := testutil.GatherAndCount(registry, "mayfly_embedded_tree_entries"); err != nil || n != 1 {
			t.Errorf("got %d series of mayfly_embedded_tree_entries, %v; want 1", n, err)
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) != 0 {
			t.Errorf("metrics: %v, %v", problems, err)
		}
		closeLog(t, l)
	}
}
