// Package report turns what was measured into tables in which every ratio says
// how many times better Mayfly is, and puts them into a document.
//
// A ratio without two numbers to divide is a dash, never a zero or an infinity.
// It measures nothing, and rounds only what people read: the JSON has all digits.
package report

import (
	"fmt"
	"time"
)

// Report is everything that one run of the comparison found out.
type Report struct {
	// Command repeats the run.
	Command  string    `json:"command"`
	Versions []Version `json:"versions"`
	// Round is how long one measurement lasts, Rounds how many there are of each.
	Round  time.Duration `json:"round_ns"`
	Rounds int           `json:"rounds"`
	Rows   []Row         `json:"rows"`
	Floods []Flood       `json:"floods"`
}

// Version is something that the figures depend on.
type Version struct {
	Name string `json:"name"`
	Is   string `json:"is"`
}

// Row is one kind of request, asked of both servers.
type Row struct {
	Name   string `json:"name"`
	Mayfly Side   `json:"mayfly"`
	// Fulcio is nil where it cannot do the work.
	Fulcio *Side `json:"fulcio,omitempty"`
	// Floor is the CPU time of the public-key operations of Mayfly's design, and
	// Arithmetic the ratio of those of Fulcio's design to it.
	Floor      time.Duration `json:"floor_ns"`
	Arithmetic float64       `json:"arithmetic,omitempty"`
}

// Side is what one server did in a row.
type Side struct {
	Saturated Load `json:"saturated"`
	// Equal is at half of what the slower server can do, Own at half of what this
	// one can.
	Equal Load `json:"equal"`
	Own   Load `json:"own"`
	// Resident and Peak are bytes of memory, at the end of the row.
	Resident int64 `json:"resident_bytes"`
	Peak     int64 `json:"peak_bytes"`
}

// Load is what one server did under one load.
type Load struct {
	// Clients that asked in a closed loop, or Offered requests a second.
	Clients int     `json:"clients,omitempty"`
	Offered float64 `json:"offered,omitempty"`
	// Rate is certificates a second.
	Rate   float64 `json:"rate"`
	Sent   int64   `json:"sent"`
	Failed int64   `json:"failed"`
	Error  string  `json:"error,omitempty"`

	P50  time.Duration `json:"p50_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p999_ns"`
	// CPU time for each certificate: of the server, of the generator, and of the
	// process with the provider and the stub log.
	CPU       time.Duration `json:"cpu_ns"`
	Generator time.Duration `json:"generator_cpu_ns"`
	Backend   time.Duration `json:"backend_cpu_ns"`
}

// Flood is how honest requests fare while junk arrives.
type Flood struct {
	Name   string `json:"name"`
	Server string `json:"server"`
	// Alone and Flooded are honest requests at half of saturation.
	Alone   Load `json:"alone"`
	Flooded Load `json:"flooded"`
	// SaturatedAlone and SaturatedFlooded are honest requests in a closed loop.
	SaturatedAlone   Load `json:"saturated_alone"`
	SaturatedFlooded Load `json:"saturated_flooded"`
	// Junk is how many requests of junk a second were offered, and answered.
	Offered  float64 `json:"junk_offered"`
	Answered float64 `json:"junk_answered"`
}

// ratio says how many times a is b.
func ratio[N int64 | float64 | time.Duration](a, b N) string {
	if a <= 0 || b <= 0 {
		return dash
	}
	r := float64(a) / float64(b)
	if r >= 100 {
		return fmt.Sprintf("%.0f", r)
	}
	return fmt.Sprintf("%.2f", r)
}

const dash = "-"

// millis is a time in milliseconds.
func millis(d time.Duration) string {
	if d <= 0 {
		return dash
	}
	ms := d.Seconds() * 1e3
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

func mebibytes(n int64) string {
	if n <= 0 {
		return dash
	}
	return fmt.Sprintf("%.0f", float64(n)/(1<<20))
}

func perSecond(r float64) string {
	if r <= 0 {
		return dash
	}
	return fmt.Sprintf("%.0f", r)
}
