package report_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/report"
)

const ms = time.Millisecond

func sample() report.Report {
	return report.Report{
		Command: "make bench-compare", Round: 8 * time.Second, Rounds: 2,
		Versions: []report.Version{{Name: "Mayfly", Is: "v1.2.3"}, {Name: "Fulcio", Is: "v1.8.8"}},
		Rows: []report.Row{
			{
				Name: "usual", Floor: 300 * time.Microsecond, Arithmetic: 1.25,
				Mayfly: report.Side{
					Saturated: report.Load{Clients: 64, Rate: 1200, CPU: 450 * time.Microsecond, Generator: 70 * time.Microsecond},
					Equal:     report.Load{Offered: 200, P50: ms, P99: 2 * ms, P999: 4 * ms, CPU: ms},
					Own:       report.Load{Offered: 600, P50: ms, P99: 5 * ms, P999: 8 * ms, CPU: ms},
					Resident:  50 << 20, Peak: 60 << 20,
				},
				Fulcio: &report.Side{
					Saturated: report.Load{Clients: 32, Rate: 400, CPU: 1500 * time.Microsecond},
					Equal:     report.Load{Offered: 200, P50: 3 * ms, P99: 30 * ms, P999: 300 * ms, CPU: 2 * ms},
					Own:       report.Load{Offered: 200, P50: 3 * ms, P99: 30 * ms, P999: 300 * ms, CPU: 2 * ms},
					Resident:  100 << 20, Peak: 90 << 20,
				},
			},
			{Name: "embedded log", Floor: 400 * time.Microsecond, Mayfly: report.Side{Saturated: report.Load{Rate: 1000, CPU: 600 * time.Microsecond}}},
		},
		Floods: []report.Flood{{
			Name: "flood", Server: "Mayfly", Offered: 6000, Answered: 5900,
			Alone: report.Load{Offered: 600, Rate: 599, P99: 5 * ms}, Flooded: report.Load{Rate: 590, P99: 9 * ms},
			SaturatedAlone: report.Load{Rate: 1200}, SaturatedFlooded: report.Load{Rate: 900},
		}},
	}
}

// TestTablesSayHowManyTimesBetter wants every ratio above 1 to be in Mayfly's
// favour, and none where there is nothing to divide by.
func TestTablesSayHowManyTimesBetter(t *testing.T) {
	text := sample().Markdown()
	for _, want := range []string{
		"Made by `make bench-compare`", "| Mayfly | v1.2.3 |", "2 measurements of 8s",
		// Throughput 3x, CPU 3.33x; 1.5 ms of Fulcio beside a floor of 0.3 ms.
		"| usual | 1200 | 400 | 3.00 | 0.45 | 1.50 | 3.33 | 1.25 | 5.00 | 1.50 | 0.07 |",
		"| embedded log | 1000 | - | - | 0.60 | - | - | - | - | 1.50 | - |",
		// Latency at equal load, then at half load, where the rates differ.
		"| usual | 200 | 200 | 1.00 | 2.00 | 4.00 | 3.00 | 30.0 | 300 | 3.00 | 15.00 | 75.00 | 1.00 | 2.00 | 2.00 |",
		"| usual | 600 | 200 | 1.00 | 5.00 | 8.00 | 3.00 | 30.0 | 300 | 3.00 | 6.00 | 37.50 |",
		"| usual | 50 | 100 | 2.00 | 60 | 90 | 1.50 |",
		"| flood, Mayfly | 600 | 6000 | 5900 | 599 | 590 | 0.98 | 5.00 | 9.00 | 1200 | 900 | 0.75 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, not := range []string{"NaN", "Inf", "0.00", "failed"} {
		if strings.Contains(text, not) {
			t.Errorf("%q in\n%s", not, text)
		}
	}
}

// TestTablesAreRectangular counts the cells of each line.
func TestTablesAreRectangular(t *testing.T) {
	columns := 0
	for line := range strings.Lines(sample().Markdown()) {
		cells := strings.Count(line, "|")
		switch {
		case cells == 0:
			columns = 0
		case columns == 0:
			columns = cells
		case cells != columns:
			t.Errorf("a line of %d cells in a table of %d: %s", cells-1, columns-1, line)
		}
	}
}

func TestFailuresAreNamed(t *testing.T) {
	r := sample()
	if r.Failed("Mayfly") || r.Failed("Fulcio") {
		t.Error("a report without failures has some")
	}
	r.Rows[0].Fulcio.Equal.Sent, r.Rows[0].Fulcio.Equal.Failed, r.Rows[0].Fulcio.Equal.Error = 500, 7, "status 500: `a\nb|c`"
	want := "- usual, Fulcio at equal load: 7 of 500 failed, the first with `status 500: 'a b/c'`\n"
	if text := r.Markdown(); !strings.Contains(text, want) {
		t.Errorf("no %q in\n%s", want, text)
	}
	if r.Failed("Mayfly") || !r.Failed("Fulcio") {
		t.Error("the failures of Fulcio are counted as Mayfly's, or not at all")
	}
	r.Floods[0].Flooded.Failed = 1
	if !r.Failed("Mayfly") {
		t.Error("failures under a flood are not counted")
	}
}

func TestTablesGoBetweenTheMarkers(t *testing.T) {
	const document = "before\n" + report.Begin + "\nold\n" + report.End + "\nafter\n"
	const want = "before\n" + report.Begin + "\n\nnew\n\n" + report.End + "\nafter\n"
	path := filepath.Join(t.TempDir(), "PERFORMANCE.md")
	if err := os.WriteFile(path, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again, it changes nothing
		if err := report.WriteInto(path, "new\n"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("the document is %q, want %q", got, want)
		}
	}
	for _, document := range []string{"", report.Begin, report.End + report.Begin, document + document} {
		if got, err := report.Replace(document, "new"); err == nil {
			t.Errorf("%q became %q, want an error", document, got)
		}
	}
}
