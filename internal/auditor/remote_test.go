package auditor

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// rfc6962Server serves a log as RFC 6962 says. It gives at most three entries an
// answer, as logs do.
func rfc6962Server(t *testing.T, l *testLog) *httptest.Server {
	t.Helper()
	answer := func(w http.ResponseWriter, v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /log/ct/v1/get-sth", func(w http.ResponseWriter, _ *http.Request) {
		h, err := checkpoints{l.origin, l.public}.open(l.note)
		if err != nil {
			t.Error(err)
		}
		answer(w, map[string]any{"tree_size": h.Size, "timestamp": h.Time.UnixMilli(), "sha256_root_hash": h.Root[:],
			"tree_head_signature": l.treeHead(h.Size, h.Root, h.Time)})
	})
	mux.HandleFunc("GET /log/ct/v1/get-entries", func(w http.ResponseWriter, r *http.Request) {
		var start, end uint64
		if _, err := fmt.Sscan(r.FormValue("start")+" "+r.FormValue("end"), &start, &end); err != nil || end >= l.tree.End() || start > end {
			http.Error(w, "bad range", http.StatusBadRequest)
			return
		}
		var entries []map[string][]byte
		for n := start; n <= min(end, start+2); n++ {
			entries = append(entries, map[string][]byte{"leaf_input": merkleLeaf(l.items(n), n), "extra_data": {1}})
		}
		answer(w, map[string]any{"entries": entries})
	})
	mux.HandleFunc("GET /log/ct/v1/get-sth-consistency", func(w http.ResponseWriter, r *http.Request) {
		var first, second uint64
		if _, err := fmt.Sscan(r.FormValue("first")+" "+r.FormValue("second"), &first, &second); err != nil {
			t.Error(err)
		}
		answer(w, map[string]any{"consistency": consistency(t, l, first, second)})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// consistency is a proof of a log.
func consistency(t *testing.T, l *testLog, first, second uint64) [][]byte {
	t.Helper()
	nodes, err := proof.Consistency(first, second)
	if err != nil {
		t.Error(err)
		return nil
	}
	known := map[compact.NodeID][]byte{}
	r := factory.NewEmptyRange(0)
	for n := range second {
		_, sum := l.items(n).leaf(n)
		if err := r.Append(sum[:], func(id compact.NodeID, hash []byte) { known[id] = hash }); err != nil {
			t.Error(err)
		}
	}
	var hashes [][]byte
	for _, id := range nodes.IDs {
		hashes = append(hashes, known[id])
	}
	all, err := nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		t.Error(err)
	}
	return all
}

func remote(l *testLog, s *httptest.Server) Log {
	r := l.target()
	r.Source = NewRFC6962(FetchHTTP(s.URL+"/log/", s.Client()), l.public)
	return r
}

func TestAnRFC6962LogIsReadToo(t *testing.T) {
	o, l := withLog(t, 20)
	s := rfc6962Server(t, l)
	o.targets.Logs = []Log{remote(l, s)}
	if r := o.round(); r.Logs[0].Size != 20 || r.Logs[0].Ours != 20 || r.Promised != 0 {
		t.Fatalf("report %+v", r)
	}
	l.grow(1)
	o.clock.advance(time.Second)
	o.round(Unexplained)

	// One entry is another one now, and so is the root.
	other := newTestLog(t, "box", o.clock, func(n uint64) item {
		if n == 5 {
			return numbered(1000)
		}
		return numbered(n)
	})
	other.key, other.public, other.origin = l.key, l.public, l.origin
	other.grow(22)
	o.targets.Logs = []Log{remote(other, rfc6962Server(t, other))}
	o.round(Unexplained, Forked)
}

func TestAnRFC6962LogWithADamagedEntryIsNoFork(t *testing.T) {
	o, l := withLog(t, 20)
	o.targets.Logs = []Log{remote(l, rfc6962Server(t, l))}
	o.round()
	intend(t, o.journal, 20, numbered(20))
	l.grow(1)
	l.set(func() {
		l.items = func(n uint64) item {
			if n == 20 {
				return numbered(2000)
			}
			return numbered(n)
		}
	})
	// The proof is made of what was there.
	source, ok := o.targets.Logs[0].Source.(*RFC6962)
	if !ok {
		t.Fatal("not an RFC 6962 source")
	}
	fetch := source.fetch
	proven := consistency(t, &testLog{items: numbered}, 20, 21)
	source.fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
		if strings.HasPrefix(path, "ct/v1/get-sth-consistency") {
			return json.Marshal(map[string]any{"consistency": proven})
		}
		return fetch(ctx, path, limit)
	}
	o.round(Damaged)
}

func TestFetchingIsBounded(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		},
		"redirected": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		},
		"refused": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "short")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(handler)
			defer s.Close()
			client := s.Client()
			client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			data, err := FetchHTTP(s.URL, client)(t.Context(), "checkpoint", maxHead)
			if err == nil {
				t.Errorf("fetched %d bytes", len(data))
			}
		})
	}
}

// certificates of a CA: with an SCT list and without.
type pair struct {
	issuer      *x509.Certificate
	key         *ecdsa.PrivateKey
	bare, final []byte
	tbs         []byte // of bare
}

func certified(t testing.TB) pair {
	t.Helper()
	var p pair
	var err error
	if p.key, err = ecdsa.GenerateKey(newTestLog(t, "x", newClock(), numbered).key.Curve, rand.Reader); err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root"}, NotBefore: began, NotAfter: began.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, root, root, p.key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.issuer, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.bare = p.sign(t, "a name", nil)
	p.final = p.sign(t, "a name", []pkix.Extension{{Id: oidSCTList, Value: []byte{4, 2, 0, 0}}})
	cert, err := x509.ParseCertificate(p.bare)
	if err != nil {
		t.Fatal(err)
	}
	p.tbs = cert.RawTBSCertificate
	return p
}

func (p pair) sign(t testing.TB, name string, extra []pkix.Extension) []byte {
	t.Helper()
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: began, NotAfter: began.Add(time.Hour), DNSNames: []string{name}, ExtraExtensions: extra}
	der, err := x509.CreateCertificate(rand.Reader, leaf, p.issuer, p.issuer.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestACertificateIsMatchedByItsPrecertificate(t *testing.T) {
	p := certified(t)
	key := sha256.Sum256(p.issuer.RawSubjectPublicKeyInfo)
	stranger := certified(t)
	o := newOffice(t)
	o.targets.Issuers = []*x509.Certificate{p.issuer}
	items := []item{
		{at: began, final: p.final},
		{at: began, final: stranger.final},
		{at: began, final: []byte("no certificate at all")},
		// Of the serial that was issued, with another name in it.
		{at: began, final: p.sign(t, "another name", []pkix.Extension{{Id: oidSCTList, Value: []byte{4, 2, 0, 0}}})},
	}
	l := newTestLog(t, "shared", o.clock, func(n uint64) item { return items[n] })
	o.targets.Logs = []Log{l.target()}
	intend(t, o.journal, 7, item{issuerKey: key, tbs: p.tbs, at: began})
	o.open()
	l.grow(3)
	if r := o.round(); r.Logs[0].Ours != 1 || r.Logs[0].Others != 2 {
		t.Errorf("report %+v, want one of ours and two of others", r.Logs[0])
	}
	l.grow(1)
	o.clock.advance(time.Second)
	o.round(Unexplained)
}

func TestALogWithoutEndIsAnAlarm(t *testing.T) {
	o := newOffice(t)
	l := newTestLog(t, "endless", o.clock, secretly)
	l.set(func() {
		l.note = l.sign(1<<39, hash{1}, o.clock.Now())
		l.files["tile/data/000"] = bundle(0, tileWidth)
	})
	o.targets.Logs = []Log{l.target()}
	o.targets.Logs[0].MaxAge = 0
	o.open()
	o.round()
	o.clock.advance(3 * time.Hour)
	l.set(func() { l.note = l.sign(1<<39, hash{1}, o.clock.Now()) })
	o.round(Unreachable, Behind)
}
