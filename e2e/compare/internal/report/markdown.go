package report

import (
	"fmt"
	"slices"
	"strings"
)

// Markdown renders the tables.
func (r Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Made by `%s` with:\n\n", r.Command)
	var versions [][]string
	for _, v := range r.Versions {
		versions = append(versions, []string{v.Name, v.Is})
	}
	table(&b, []string{"", ""}, versions)
	fmt.Fprintf(&b, "\n%d measurements of %v for each figure, taken in turns. A ratio above 1 is in Mayfly's favour.\n\n%s\n", r.Rounds, r.Round, setup)
	if len(r.Rows) > 0 {
		r.throughput(&b)
		r.latency(&b, "At equal load: half of what the slower server can do", func(s *Side) Load { return s.Equal })
		r.latency(&b, "At half of what each server can do itself", func(s *Side) Load { return s.Own })
		r.memory(&b)
	}
	if len(r.Floods) > 0 {
		r.flood(&b)
	}
	if notes := r.notes(); len(notes) > 0 {
		fmt.Fprintf(&b, "\nNot every request was answered with a certificate:\n\n%s", strings.Join(notes, ""))
	}
	return b.String()
}

// setup is what a reader must know to judge the figures.
const setup = "The *usual* request is for a P-256 key, with an RS256 token, by REST v2 in plaintext over connections that are kept, to a CA " +
	"with a P-256 key in a file and a log that signs at once and keeps nothing; the others differ from it in what they are called after. " +
	"There are 64 people, 64 connections at most, and 2,048 keys that take turns (24 of RSA-2048, 8 of RSA-4096; no server remembers one). Mayfly " +
	"runs with `limits.per_identity` and `limits.per_address` out of the way, for Fulcio has no limits, with `logging.level: warn`, for Fulcio writes " +
	"nothing about a request that succeeds (the line that Mayfly writes otherwise costs some 5 µs), and else with its defaults, among them " +
	"the journal with its fsyncs and the log audit; Fulcio with `--log_type prod` and the log's public key. Fulcio has no TLS for REST and no " +
	"log of its own. The *real remote log* is a `mayfly log serve` for each, behind a forwarder that shows it a client certificate, which Fulcio cannot."

// fulcio is never nil: the figures of a server that could not do the work are
// zero, and shown as dashes.
func (row Row) fulcio() *Side {
	if row.Fulcio == nil {
		return &Side{}
	}
	return row.Fulcio
}

func (r Report) throughput(b *strings.Builder) {
	heading(b, "At saturation")
	var rows [][]string
	for _, row := range r.Rows {
		m, f := row.Mayfly.Saturated, row.fulcio().Saturated
		rows = append(rows, []string{row.Name,
			perSecond(m.Rate), perSecond(f.Rate), ratio(m.Rate, f.Rate),
			millis(m.CPU), millis(f.CPU), ratio(f.CPU, m.CPU),
			ratio(row.Arithmetic, 1), ratio(f.CPU, row.Floor), ratio(m.CPU, row.Floor), millis(m.Generator)})
	}
	table(b, []string{"request", "Mayfly /s", "Fulcio /s", "ratio", "Mayfly CPU ms", "Fulcio CPU ms", "ratio",
		"arithmetic", "best", "Mayfly / floor", "generator CPU ms"}, rows)
	b.WriteString("\nCPU is of the server's process, for each certificate. *Arithmetic* is the ratio of the public-key operations of both " +
		"designs, *best* what Fulcio's measured CPU would be to a Mayfly that did nothing but its own, *Mayfly / floor* how far it is from that.\n")
}

func (r Report) latency(b *strings.Builder, title string, of func(*Side) Load) {
	heading(b, title)
	var rows [][]string
	for _, row := range r.Rows {
		m, f := of(&row.Mayfly), of(row.fulcio())
		rows = append(rows, []string{row.Name, perSecond(m.Offered), perSecond(f.Offered),
			millis(m.P50), millis(m.P99), millis(m.P999), millis(f.P50), millis(f.P99), millis(f.P999),
			ratio(f.P50, m.P50), ratio(f.P99, m.P99), ratio(f.P999, m.P999), millis(m.CPU), millis(f.CPU), ratio(f.CPU, m.CPU)})
	}
	table(b, []string{"request", "Mayfly /s", "Fulcio /s", "Mayfly p50 ms", "p99", "p99.9", "Fulcio p50 ms", "p99", "p99.9",
		"ratio p50", "p99", "p99.9", "Mayfly CPU ms", "Fulcio CPU ms", "ratio"}, rows)
}

func (r Report) memory(b *strings.Builder) {
	heading(b, "Memory after it, in MiB")
	var rows [][]string
	for _, row := range r.Rows {
		m, f := row.Mayfly, row.fulcio()
		rows = append(rows, []string{row.Name, mebibytes(m.Resident), mebibytes(f.Resident), ratio(f.Resident, m.Resident),
			mebibytes(m.Peak), mebibytes(f.Peak), ratio(f.Peak, m.Peak)})
	}
	table(b, []string{"request", "Mayfly resident", "Fulcio resident", "ratio", "Mayfly peak", "Fulcio peak", "ratio"}, rows)
}

func (r Report) flood(b *strings.Builder) {
	heading(b, "Under a flood of junk")
	var rows [][]string
	for _, f := range r.Floods {
		rows = append(rows, []string{f.Name + ", " + f.Server, perSecond(f.Alone.Offered), perSecond(f.Offered), perSecond(f.Answered),
			perSecond(f.Alone.Rate), perSecond(f.Flooded.Rate), ratio(f.Flooded.Rate, f.Alone.Rate), millis(f.Alone.P99), millis(f.Flooded.P99),
			perSecond(f.SaturatedAlone.Rate), perSecond(f.SaturatedFlooded.Rate), ratio(f.SaturatedFlooded.Rate, f.SaturatedAlone.Rate)})
	}
	table(b, []string{"", "honest /s offered", "junk /s offered", "junk /s answered", "certificates /s alone", "flooded", "kept",
		"p99 ms alone", "flooded", "saturated /s alone", "flooded", "kept"}, rows)
	b.WriteString("\nJunk is tokens of noise, of a stranger, forged, expired and for others, and now and then a body of 256 KiB, ten for each honest " +
		"request. Honest clients have 64 addresses.\n")
}

// notes name the loads under which requests failed.
func (r Report) notes() []string {
	var notes []string
	note := func(row, server, what string, l Load) {
		if l.Failed > 0 {
			notes = append(notes, fmt.Sprintf("- %s, %s %s: %d of %d failed, the first with `%s`\n", row, server, what, l.Failed, l.Sent, oneLine(l.Error)))
		}
	}
	for _, row := range r.Rows {
		for _, s := range []struct {
			name string
			side *Side
		}{{"Mayfly", &row.Mayfly}, {"Fulcio", row.fulcio()}} {
			note(row.Name, s.name, "saturated", s.side.Saturated)
			note(row.Name, s.name, "at equal load", s.side.Equal)
			if s.side.Own.Offered != s.side.Equal.Offered {
				note(row.Name, s.name, "at half load", s.side.Own)
			}
		}
	}
	for _, f := range r.Floods {
		note(f.Name, f.Server, "alone", f.Alone)
		note(f.Name, f.Server, "flooded", f.Flooded)
		note(f.Name, f.Server, "saturated alone", f.SaturatedAlone)
		note(f.Name, f.Server, "saturated and flooded", f.SaturatedFlooded)
	}
	return notes
}

// Failed is whether any request to a server failed that should not have.
func (r Report) Failed(server string) bool {
	return slices.ContainsFunc(r.notes(), func(note string) bool { return strings.Contains(note, ", "+server+" ") })
}

const maxNote = 160

func oneLine(s string) string {
	s = strings.NewReplacer("\n", " ", "`", "'", "|", "/").Replace(s)
	if len(s) > maxNote {
		s = s[:maxNote] + "…"
	}
	return s
}

func heading(b *strings.Builder, title string) { fmt.Fprintf(b, "\n### %s\n\n", title) }

func table(b *strings.Builder, columns []string, rows [][]string) {
	fmt.Fprintf(b, "| %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)-1))
	for _, row := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
}
