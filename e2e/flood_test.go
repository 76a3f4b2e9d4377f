package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Bounds of the flood. The memory that it may cost is small beside what one
// bucket, buffer or log line kept for each request would come to, and large
// beside the swings of the garbage collector.
const (
	floodRequests  = 20_000
	floodClients   = 16
	maxMemoryCost  = 48 << 20
	maxStateCost   = 256 << 10 // refusals of verified identities are recorded, but few a second
	maxFilesOpened = 8
)

// junkTokens are tokens of every kind that costs nothing to make, or nothing
// but a key of one's own. Some name the decoy, a provider that nobody configured.
func junkTokens(t testing.TB, is, decoy *issuer) map[string]string {
	t.Helper()
	now := time.Now()
	claims := func(issuer string) map[string]any {
		return map[string]any{
			"iss": issuer, "aud": "sigstore", "sub": "junk", "email": alice, "email_verified": true,
			"iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
		}
	}
	header := func(more map[string]any) map[string]any {
		h := map[string]any{"alg": "RS256", "typ": "JWT", "kid": keyID}
		maps.Copy(h, more)
		return h
	}
	good := strings.Split(is.token(t, alice, nil), ".")
	return map[string]string{
		"noise":           strings.Repeat("x", 500),
		"dots":            strings.Repeat(".", 10_000),
		"bad signature":   good[0] + "." + good[1] + "." + b64(make([]byte, 256)),
		"foreign key":     sign(t, decoy.key, header(nil), claims(is.url)),
		"unknown kid":     sign(t, decoy.key, header(map[string]any{"kid": rand.Text()}), claims(is.url)),
		"unknown issuer":  decoy.token(t, alice, nil),
		"key by address":  sign(t, decoy.key, header(map[string]any{"jku": decoy.url + "/certs", "x5u": decoy.url + "/certs"}), claims(is.url)),
		"alg none":        b64([]byte(`{"alg":"none"}`)) + "." + good[1] + ".",
		"expired":         is.token(t, alice, map[string]any{"exp": now.Add(-time.Hour).Unix(), "iat": now.Add(-2 * time.Hour).Unix()}),
		"other audience":  is.token(t, alice, map[string]any{"aud": "vault"}),
		"unverified name": is.token(t, alice, map[string]any{"email_verified": false}),
		"too long":        is.token(t, alice, map[string]any{"groups": strings.Repeat("g", 20<<10)}),
		// A good token whose holder does not have the key that it is sent with.
		"stolen": is.token(t, mallory, nil),
	}
}

// TestFloodOfJunkCostsABoundedAmount sends junk as fast as it is answered.
func TestFloodOfJunkCostsABoundedAmount(t *testing.T) {
	w := newWorld(t, setting{limits: noLimits})
	decoy := newIssuer(t, w.pki)
	tokens := junkTokens(t, w.issuer, decoy)
	for name, token := range tokens {
		got, err := w.request(newApplicant(t, alice), token)
		if err != nil || !answersJunk(name, got) || got.reason() == "" {
			t.Errorf("%s: %v, %v; want 400 with a reason", name, got, err)
		}
	}
	// The heap finds its size before it is measured.
	w.flood(t, tokens, floodRequests/10)
	asked, memory, files, state := w.issuer.requests.Load(), w.residentMemory(t), w.openFiles(t), w.stateSize(t)
	series := w.metricSeries(t)
	start := time.Now()
	w.flood(t, tokens, floodRequests)

	// Two rounds of discovery and keys in any minute, whatever is asked for them.
	bound := int64(4 * (1 + time.Since(start)/time.Minute))
	if n := w.issuer.requests.Load() - asked; n > bound {
		t.Errorf("%d junk tokens caused %d requests to the provider, want at most %d", floodRequests, n, bound)
	}
	if n := decoy.requests.Load(); n != 0 {
		t.Errorf("%d junk tokens caused %d requests to a provider that is not configured", floodRequests, n)
	}
	if n := w.metricSeries(t) - series; n > 0 {
		t.Errorf("%d junk tokens made %d more time series", floodRequests, n)
	}
	if cost := w.residentMemory(t) - memory; cost > maxMemoryCost {
		t.Errorf("%d junk tokens cost %d bytes of memory, want at most %d", floodRequests, cost, maxMemoryCost)
	} else {
		t.Logf("%d junk tokens: memory %d KiB more than %d KiB", floodRequests, cost>>10, memory>>10)
	}
	if cost := w.stateSize(t) - state; cost > maxStateCost {
		t.Errorf("%d junk tokens cost %d bytes of disk, want at most %d", floodRequests, cost, maxStateCost)
	} else {
		t.Logf("%d junk tokens: state %d bytes more than %d", floodRequests, cost, state)
	}
	if n := w.openFiles(t) - files; n > maxFilesOpened {
		t.Errorf("%d junk tokens left %d more files open", floodRequests, n)
	}
	// And whoever has a good token is served, and proved, as before.
	w.checkLeaf(t, w.mustIssue(t, alice)[0])
}

// flood sends n requests, of all kinds in turn.
func (w *world) flood(t testing.TB, tokens map[string]string, n int) {
	t.Helper()
	a := newApplicant(t, alice)
	var kinds []string
	for name := range tokens {
		kinds = append(kinds, name)
	}
	var clients sync.WaitGroup
	for c := range floodClients {
		clients.Go(func() {
			for i := c; i < n; i += floodClients {
				kind := kinds[i%len(kinds)]
				if got, err := w.request(a, tokens[kind]); err != nil || !answersJunk(kind, got) {
					t.Errorf("%s, request %d: %v, %v; want 400", kind, i, got, err)
					return
				}
			}
		})
	}
	clients.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func answersJunk(kind string, got answer) bool {
	return got.status == http.StatusBadRequest || kind == "unknown kid" && keyUnknown(got)
}

// keyUnknown reports an answer to a token under a key that the provider does not
// publish: it is a bad one if the provider was asked for the key, and otherwise,
// as long as the provider may not be asked again, may be good later.
func keyUnknown(got answer) bool {
	wait, err := strconv.Atoi(got.header.Get("Retry-After"))
	return got.status == http.StatusBadRequest && got.reason() == "key_unknown" ||
		got.status == http.StatusServiceUnavailable && got.reason() == "idp_keys_unavailable" && err == nil && wait >= 1 && wait <= 60
}

// residentMemory is what Mayfly occupies now.
func (w *world) residentMemory(t testing.TB) int64 {
	t.Helper()
	for line := range bytes.Lines(readFile(t, w.proc("status"))) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			kib, err := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
			if err != nil {
				t.Fatalf("reading %q: %v", line, err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmRSS in /proc")
	return 0
}

// metricSeries is how many time series there are.
func (w *world) metricSeries(t testing.TB) int {
	t.Helper()
	body, err := fetch(w.http, w.metrics)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(body) {
		if !bytes.HasPrefix(line, []byte("#")) {
			n++
		}
	}
	return n
}

func (w *world) openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir(w.proc("fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func (w *world) proc(name string) string {
	return fmt.Sprintf("/proc/%d/%s", w.mayfly.cmd.Process.Pid, name)
}

// stateSize is the length of all files in the state directory.
func (w *world) stateSize(t testing.TB) int64 {
	t.Helper()
	var size int64
	err := filepath.WalkDir(w.state, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}
