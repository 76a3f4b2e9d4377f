package embedded

import (
	"context"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

func TestEveryEntryIsProvedFromTiles(t *testing.T) {
	dir, info := initLog(t)
	l := openLog(t, testConfig(t, dir))
	server := httptest.NewServer(l.ReadHandler())
	defer server.Close()
	ca := testca.New(t)

	// Across the border of the first bundle and tile.
	const n = 300
	all := make([]testEntry, n)
	var wg sync.WaitGroup
	for i := range all {
		s := ca.Precertificate(t)
		wg.Go(func() {
			sct, err := l.Submit(t.Context(), s)
			if err != nil {
				t.Errorf("Submit: %v", err)
			}
			all[i] = testEntry{s, sct}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	seen := make(map[int64]bool)
	for _, e := range all {
		if seen[e.sct.Index] {
			t.Fatalf("index %d was given twice", e.sct.Index)
		}
		seen[e.sct.Index] = true
		if err := VerifyInclusion(ctx, server.URL, server.Client(), info.PublicKey, testOrigin, e.sct, e.s); err != nil {
			t.Fatalf("entry %d: %v", e.sct.Index, err)
		}
	}
	// The proof must be of this entry and no other.
	wrong := all[0]
	wrong.sct.Timestamp = wrong.sct.Timestamp.Add(time.Millisecond)
	if err := VerifyInclusion(ctx, server.URL, server.Client(), info.PublicKey, testOrigin, wrong.sct, wrong.s); err == nil {
		t.Fatal("VerifyInclusion accepted an entry with another timestamp")
	}
}
