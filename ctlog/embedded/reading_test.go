package embedded

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// HTTP tells times by the second, and checkpoints follow each other faster: a
// cache that asks whether its checkpoint is still the last one must not be told so
// for its date.
func TestACheckpointOfTheSameSecondIsAnotherOne(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	clock := &testClock{now: time.Now().Truncate(time.Second).Add(time.Minute)}
	c := testConfig(t, dir)
	c.Clock = clock.read
	l := openLog(t, c)
	ask := func(header http.Header) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/checkpoint", nil)
		r.Header = header
		w := httptest.NewRecorder()
		l.ReadHandler().ServeHTTP(w, r)
		return w
	}
	submit(t, l, ca.Precertificate(t))
	eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
	first := ask(nil)
	known := http.Header{}
	for name, answered := range map[string]string{"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"} {
		if v := first.Header().Get(answered); v != "" {
			known.Set(name, v)
		}
	}
	if w := ask(known); w.Code != http.StatusNotModified {
		t.Errorf("the same checkpoint again: HTTP %d, want 304", w.Code)
	}
	submit(t, l, ca.Precertificate(t))
	eventually(t, func() bool { return l.publisher.head.Load().size == 2 })
	known.Del("If-None-Match") // as of a cache that knows only dates
	known.Set("If-Modified-Since", l.publisher.head.Load().time.Format(http.TimeFormat))
	if w := ask(known); w.Code != http.StatusOK || w.Body.String() == first.Body.String() {
		t.Errorf("a later checkpoint of the same second: HTTP %d %q, want it", w.Code, w.Body)
	}
}
