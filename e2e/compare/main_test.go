package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/report"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/site"
)

// TestMain lets this binary be the backend, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == site.BackendCommand {
		if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestQuickMeasuresMayfly runs one row against the real binary, so that the
// comparison keeps working. It says nothing about how fast anything is.
func TestQuickMeasuresMayfly(t *testing.T) {
	mayfly := os.Getenv("E2E_MAYFLY")
	if mayfly == "" {
		t.Fatal("E2E_MAYFLY is not set; start the tests with e2e/run.sh")
	}
	dir := t.TempDir()
	results := filepath.Join(dir, "results.json")
	document := filepath.Join(dir, "PERFORMANCE.md")
	if err := os.WriteFile(document, []byte("# Speed\n"+report.Begin+"\n"+report.End+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	if err := run(ctx, []string{"-quick", "-mayfly", mayfly, "-json", results, "-write", document}, &stdout, &stderr); err != nil {
		t.Fatalf("compare -quick: %v\n%s", err, &stderr)
	}
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 1 || r.Rows[0].Name != "usual" || r.Rows[0].Fulcio != nil || r.Rows[0].Floor <= 0 {
		t.Fatalf("rows are %+v, want the usual one with its floor and without Fulcio", r.Rows)
	}
	m := r.Rows[0].Mayfly
	for name, l := range map[string]report.Load{"saturated": m.Saturated, "at half load": m.Equal} {
		if l.Sent == 0 || l.Failed != 0 || l.Rate <= 0 || l.CPU <= 0 || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.P999 {
			t.Errorf("%s: %+v, want certificates, no failures and figures in order", name, l)
		}
	}
	// The histogram's count is that of the requests: all that were due.
	if want := int64(m.Equal.Offered * 2); m.Equal.Sent != want {
		t.Errorf("%d requests in two seconds at %.1f/s, want %d", m.Equal.Sent, m.Equal.Offered, want)
	}
	if m.Resident <= 0 || m.Peak < m.Resident/2 {
		t.Errorf("memory is %d of %d, want some", m.Resident, m.Peak)
	}
	written, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(written), "# Speed\n"+report.Begin+"\n\nMade by `make bench-compare COMPARE='-quick=true'`") {
		t.Errorf("the document is\n%s", written)
	}
}

// TestDocumentIsLookedAtBeforehand wants the error at once, and not after the
// measurements: the program named here does not exist.
func TestDocumentIsLookedAtBeforehand(t *testing.T) {
	document := filepath.Join(t.TempDir(), "PERFORMANCE.md")
	if err := os.WriteFile(document, []byte("no markers"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"-mayfly", "/nonexistent", "-write", document}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), report.Begin) {
		t.Errorf("a document without markers: %v, want an error that names them", err)
	}
}

// TestRowsDifferInOneRespect holds the table to its rule, and both servers to the
// same floor but for their designs.
func TestRowsDifferInOneRespect(t *testing.T) {
	var names []string
	for _, r := range rows() {
		names = append(names, r.name)
		changed := 0
		for _, differs := range []bool{
			r.ca != usual.ca, r.token != usual.token, r.client != usual.client, r.api != usual.api,
			r.tls != usual.tls && r.api == usual.api, r.log != usual.log, r.fresh != usual.fresh,
		} {
			if differs {
				changed++
			}
		}
		if want := 1; r.name != usual.name && changed != want || r.name == usual.name && changed != 0 {
			t.Errorf("%s differs from the usual request in %d respects", r.name, changed)
		}
	}
	if slices.Sort(names); len(slices.Compact(names)) != len(rows()) {
		t.Errorf("names are not unique: %q", names)
	}
}

func TestCommandLineIsRepeatable(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"-mayfly m -fulcio f -write x -json y", "make bench-compare"},
		{"-fulcio f -rows flood -round 2s", "make bench-compare COMPARE='-round=2s -rows=flood'"},
		// One more shell reads it, and make before that.
		{"-rows P-384|flood$", `make bench-compare COMPARE='-rows="P-384|flood$$"'`},
	} {
		o, err := parse(strings.Fields(test.args), os.Stderr)
		if err != nil || o.command != test.want {
			t.Errorf("%s is repeated by %q (%v), want %q", test.args, o.command, err, test.want)
		}
	}
	for _, args := range []string{"-round 0s", "-rounds 0", "-rows a b"} {
		if o, err := parse(strings.Fields(args), os.Stderr); err == nil {
			t.Errorf("%s is read as %+v, want an error", args, o)
		}
	}
}
