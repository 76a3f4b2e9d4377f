package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// logOf makes a configuration with a log of certificates, one a minute, for
// person0 to person4 and one URI.
func logOf(t *testing.T) (configuration string, start time.Time) {
	t.Helper()
	dir := t.TempDir()
	configuration = filepath.Join(dir, "mayfly.yaml")
	text := fmt.Sprintf(`public_url: https://ca.corp.example
listen: {plaintext: true}
state: %s
issuers: [{name: p, url: "https://idp.corp.example", audiences: [sigstore], allow: all, san: email, may_issue: {email_domains: [corp.example]}}]
chains: [{name: main, certificates: c, key: {file: k}}]
logs: [{name: local, embedded: {}}]
`, filepath.Join(dir, "state"))
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(-time.Hour).Truncate(time.Second)
	start = now
	clock := func() time.Time { return now }
	tree := filepath.Join(dir, "state", "log", "local")
	if _, err := embedded.Init(t.Context(), embedded.InitConfig{Dir: tree, Origin: "ca.corp.example/log/local", Clock: clock}); err != nil {
		t.Fatal(err)
	}
	l, err := embedded.Open(t.Context(), embedded.Config{Dir: tree, Clock: clock, MinFreeBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(0xabc0 + i)), NotAfter: now.Add(10 * time.Minute)}
		if c.EmailAddresses = []string{fmt.Sprintf("person%d@corp.example", i)}; i == 5 {
			c.EmailAddresses, c.URIs = nil, []*url.URL{{Scheme: "https", Host: "ci.corp.example", Path: "/job"}}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Add(t.Context(), embedded.Entry{Certificate: der}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return configuration, start
}

// find runs the command and returns the indexes that it found.
func find(t *testing.T, configuration string, args ...string) (indexes string, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"log", "find", "--output", "json", "--config", configuration}, args...))
	err = cmd.ExecuteContext(t.Context())
	var found []foundEntry
	if out.Len() > 0 {
		if jsonErr := json.Unmarshal(out.Bytes(), &found); jsonErr != nil {
			t.Fatalf("%v from:\n%s", jsonErr, out.String())
		}
	}
	var all []string
	for _, e := range found {
		if !e.Proven || e.TreeSize != 6 || e.Log != "local" || e.Kind != "certificate" {
			t.Errorf("%v: got %+v, want a certificate proven in 6 entries", args, e)
		}
		all = append(all, fmt.Sprint(e.Index))
	}
	return strings.Join(all, " "), err
}

func TestFindLooksForAllThatIsGiven(t *testing.T) {
	configuration, start := logOf(t)
	at := func(minutes int) string {
		return start.Add(time.Duration(minutes) * time.Minute).UTC().Format(time.RFC3339)
	}
	for args, want := range map[string]string{
		"--serial abc3":                                 "3",
		"--serial 0xABC3":                               "3",
		"--serial ab:c3":                                "3",
		"--serial abc9":                                 "",
		"--email person1@corp.example":                  "1",
		"--email Person1@Corp.Example":                  "1",
		"--email person1":                               "",
		"--uri https://ci.corp.example/job":             "5",
		"--index 4":                                     "4",
		"--index 6":                                     "",
		"--since " + at(2):                              "2 3 4 5",
		"--since " + at(9):                              "",
		"--since 2h":                                    "0 1 2 3 4 5",
		"--since 2h --limit 2":                          "0 1",
		"--since " + at(2) + " --serial abc1":           "",
		"--index 2 --email person2@corp.example":        "2",
		"--index 3 --email person2@corp.example":        "",
		"--serial abc2 --email person2@corp.example":    "2",
		"--serial abc2 --uri https://ci.corp.example/x": "",
	} {
		got, err := find(t, configuration, strings.Fields(args)...)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("mayfly log find %s: got %q, error %v, want %q", args, got, err, want)
		}
	}
}

// An entry that is not the one of the tree is shown, and is an error.
func TestFindSaysWhatIsNotProven(t *testing.T) {
	configuration, _ := logOf(t)
	bundle := filepath.Join(filepath.Dir(configuration), "state/log/local/tree/tile/data/000.p/6")
	data, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(data, []byte("person3@"), []byte("person7@"), 1)
	if err := os.WriteFile(bundle, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"log", "find", "--email", "person7@corp.example", "--config", configuration})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "not proven: 1 entry") || !strings.Contains(out.String(), "NO: ") {
		t.Errorf("got error %v and\n%s\nwant that the entry is not proven", err, out.String())
	}
}
