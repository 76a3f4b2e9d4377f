package endpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func TestRequestsAreBoundedAndKeepSecrets(t *testing.T) {
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/large":
			_, _ = w.Write(make([]byte, MaxBody+1))
		case "/broken":
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprint(w, r.Header.Get("Accept-Encoding"))
		}
	}))
	defer s.Close()
	c := New(Config{})
	a, err := c.PostForm(t.Context(), s.URL+"/redirect", url.Values{"code": {"secret"}}, nil)
	if err != nil || a.Status != http.StatusTemporaryRedirect || elsewhere != 0 {
		t.Errorf("redirect: answer %+v, error %v, followed %d times; want the redirect itself", a, err, elsewhere)
	}
	if _, err := c.Get(t.Context(), s.URL+"/large", nil); err == nil {
		t.Error("an answer of more than a megabyte: no error, want one")
	}
	if _, err := c.Get(t.Context(), s.URL+"/broken?code=secret", nil); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "secret") {
		t.Errorf("a connection that breaks: error %v, want one that may pass, without the query", err)
	}
	if a, err := c.Get(t.Context(), s.URL, nil); err != nil || strings.Contains(string(a.Body), "gzip") {
		t.Errorf("answer %+v, error %v; compressed answers must not be asked for", a, err)
	}
}

// TestKeySetsAreAskedForByTheirOwnType: a Kubernetes API server answers 406 to
// who does not.
func TestKeySetsAreAskedForByTheirOwnType(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "application/jwk-set+json") {
			w.WriteHeader(http.StatusNotAcceptable)
		}
	}))
	defer s.Close()
	if a, err := New(Config{}).Get(t.Context(), s.URL, nil); err != nil || a.Status != http.StatusOK {
		t.Errorf("answer %+v, error %v; want 200", a, err)
	}
}

func TestACertificateThatDoesNotVerifyIsNotTriedAgain(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	s.Config.ErrorLog = nil
	_, err := New(Config{}).Get(t.Context(), s.URL, nil)
	if err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("unknown certificate: error %v, want one that does not pass", err)
	}
}

func TestParseURL(t *testing.T) {
	for _, good := range []string{"https://a.example", "https://a.example:8443/x?y=z", "http://127.0.0.1:80", "http://[::1]/", "http://localhost"} {
		if _, err := ParseURL(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "a.example", "http://a.example", "http://127.0.0.1.evil.example", "http://0.0.0.0", "https://", "https:///x", "https:a",
		"https://u@a.example", "https://u:p@a.example", "https://a.example#f", "https://a.example/#", "file:///etc/passwd", "javascript:x",
		"-x", "https://a.example/\n", "https://a.example/ x", "https://ä.example", `https://a.example\@b`, "http://[fe80::1%25lo]/", "%",
	} {
		if u, err := ParseURL(bad); err == nil {
			t.Errorf("%q: accepted as %v, want an error", bad, u)
		}
	}
}

func TestObjectRefuses(t *testing.T) {
	for _, bad := range []string{
		"", "[]", "1", "null", `"x"`, "{", `{"a":1`, `{"a":1}x`, `{"a":1}{}`, `{"a":1,"a":1}`, `{"a":{"b":1,"b":2}}`, `{"a":[{"b":1,"b":2}]}`,
		`{"a":1,}`, `{a:1}`, `{"a":01}`, `{"a":"\ud800"}`, `{"a":"\u0000"}`, "{\"a\":\"\xff\"}", `{"\ud800":1}`, `{"a":"` + "\n" + `"}`,
		strings.Repeat(`{"a":`, MaxDepth+1) + "1" + strings.Repeat("}", MaxDepth+1),
		"{" + strings.Repeat(`"a":[`, 1) + strings.Repeat("[", 200000),
	} {
		if v, err := Object([]byte(bad)); err == nil {
			t.Errorf("%.60q: read as %v, want an error", bad, v)
		}
	}
	if v, err := Object([]byte(` {"iss":"x","Iss":"y","n":12345678901234567890} `)); err != nil ||
		v["iss"] != "x" || v["Iss"] != "y" || v["n"] != json.Number("12345678901234567890") {
		t.Errorf("sound object: %v, %v", v, err)
	}
}

// FuzzObject: what is accepted is what encoding/json reads.
func FuzzObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,{"b":null}],"c":true}`, `{"a":1,"a":2}`, `{"a":"\ud83d\ude00"}`, `{"a":1} x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Object(data)
		if err != nil {
			return
		}
		var want map[string]any
		d := json.NewDecoder(strings.NewReader(string(data)))
		d.UseNumber()
		if err := d.Decode(&want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: read as %v, encoding/json reads %v, %v", data, got, want, err)
		}
	})
}
