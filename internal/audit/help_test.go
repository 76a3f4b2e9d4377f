package audit

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

var testTime = time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC)

// tokenText stands for a secret that must never reach a journal.
const tokenText = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl"

func config(dir string) Config {
	return Config{
		Dir: dir, Node: "ca-1", Clock: func() time.Time { return testTime },
		ReserveBytes: 2 << 20, FloorBytes: 1 << 20,
	}
}

func openJournal(t testing.TB, c Config) *Journal {
	t.Helper()
	j, err := Open(context.Background(), c)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	return j
}

func closeJournal(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(context.Background()); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func mustVerify(t testing.TB, dir string, known ...Head) Report {
	t.Helper()
	r, err := Verify(dir, known...)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	return r
}

var proven = sync.OnceValues(func() (ca.ProvenKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return ca.ProvenKey{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return ca.ProvenKey{}, err
	}
	digest := sha256.Sum256([]byte("repo:a/b"))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return ca.ProvenKey{}, err
	}
	return ca.ProveSignature(spki, sig, ca.Identity{Subject: "repo:a/b"})
})

func request(t testing.TB) ca.Request {
	t.Helper()
	key, err := proven()
	if err != nil {
		t.Fatal(err)
	}
	return ca.Request{
		ID: "req-1", API: "rest-v2", Time: testTime, Source: netip.MustParseAddr("192.0.2.7"),
		ConfigDigest: [32]byte{1}, Key: key,
		Identity: ca.Identity{
			IssuerName: "gitlab", Issuer: "https://gitlab.example", Subject: "repo:a/b", Email: "dev@example.com",
			Claims: map[string]any{"raw": tokenText, "secret": "claim value"},
			Token: ca.TokenFacts{
				Digest: [32]byte{2}, KeyID: "k1", KeyThumbprint: "thumb", Algorithm: "RS256",
				Audience: []string{"sigstore"}, AuthorizedParty: "ci", ID: "jti-1",
				IssuedAt: testTime.Add(-time.Minute), Expires: testTime.Add(time.Minute), StaleKeys: true,
			},
		},
	}
}

func decision(t testing.TB) ca.Decision {
	t.Helper()
	san, err := ca.EmailSAN("dev@example.com")
	if err != nil {
		t.Fatal(err)
	}
	return ca.Decision{
		Rule: "developers", PolicyDigest: [32]byte{3}, SAN: san, Profile: "default",
		Extensions: []ca.Extension{{Number: 12, Value: "https://gitlab.example/a/b"}},
	}
}

func serial(n uint64) (s [20]byte) {
	s[0] = 0x40
	binary.BigEndian.PutUint64(s[12:], n)
	return s
}

func intent(t testing.TB, n uint64) ca.Intent {
	t.Helper()
	return ca.Intent{
		Request: request(t), Decision: decision(t), Serial: serial(n), Chain: "2026",
		IssuerKeyHash: [32]byte{4}, TBSHash: [32]byte{5},
		NotBefore: testTime.Add(-time.Minute), NotAfter: testTime.Add(9 * time.Minute),
	}
}

func mustIntent(t testing.TB, j *Journal, n uint64) uint64 {
	t.Helper()
	seq, err := j.Intent(context.Background(), intent(t, n))
	if err != nil {
		t.Fatalf("Intent %d: %v", n, err)
	}
	return seq
}

func issued(seq, n uint64) ca.Outcome {
	return ca.Outcome{
		Intent: seq, Serial: serial(n), CertificateHash: [32]byte{6},
		SCT: ca.SCT{Log: "box", LogID: [32]byte{7}, Timestamp: testTime, Index: 12, TLS: []byte{1}},
	}
}

func mustOutcome(t testing.TB, j *Journal, o ca.Outcome) {
	t.Helper()
	if err := j.Outcome(context.Background(), o); err != nil {
		t.Fatalf("Outcome of %d: %v", o.Intent, err)
	}
}

// record is a line as any reader of the journal sees it.
type record struct {
	Seq  uint64         `json:"seq"`
	Time string         `json:"time"`
	Node string         `json:"node"`
	Type string         `json:"type"`
	Body map[string]any `json:"body"`
}

// records reads a journal with nothing but encoding/json.
func records(t testing.TB, dir string) []record {
	t.Helper()
	var out []record
	for _, line := range lines(t, dir) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("line %s: %v", line, err)
		}
		out = append(out, r)
	}
	return out
}

func ofType(rs []record, typ string) (out []record) {
	for _, r := range rs {
		if r.Type == typ {
			out = append(out, r)
		}
	}
	return out
}

// lines returns all whole lines of all segments.
func lines(t testing.TB, dir string) (out [][]byte) {
	t.Helper()
	for _, file := range segmentFiles(t, dir) {
		text := readFile(t, file)
		for line := range bytes.Lines(text) {
			if bytes.HasSuffix(line, []byte("\n")) {
				out = append(out, bytes.TrimSuffix(line, []byte("\n")))
			}
		}
	}
	return out
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "journal-*.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func writeFile(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// cloneDir copies a journal, as it stands, to a directory of its own.
func cloneDir(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "journal")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "journal*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		writeFile(t, filepath.Join(to, filepath.Base(file)), readFile(t, file))
	}
	return to
}

// badAt demands that err names the record.
func badAt(t testing.TB, what string, err error, line int, seq uint64) {
	t.Helper()
	bad, ok := errors.AsType[*BadRecord](err)
	if !ok {
		t.Errorf("%s: error %v, want a BadRecord for line %d", what, err, line)
		return
	}
	if bad.Line != line || bad.Sequence != seq {
		t.Errorf("%s: %v, want line %d, record %d", what, bad, line, seq)
	}
}
