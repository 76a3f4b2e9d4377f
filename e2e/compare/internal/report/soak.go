package report

import (
	"fmt"
	"strings"
	"time"
)

// Soak is the course of a long run, in thirds.
type Soak struct {
	Duration     time.Duration `json:"duration_ns"`
	Rate         float64       `json:"rate"`
	Certificates int64         `json:"certificates"`
	Failed       int64         `json:"failed"`
	Samples      []Sample      `json:"samples"`
}

// Sample is what a server occupied at one time.
type Sample struct {
	At         time.Duration `json:"at_ns"`
	Resident   int64         `json:"resident_bytes"`
	Goroutines int           `json:"goroutines"`
	Files      int           `json:"files"`
}

// What the last third of a soak may have more than the first: the heap breathes
// with the garbage collector, and connections come and go.
const (
	resourceSlack = 0.10
	memorySlack   = 8 << 20
	countSlack    = 8
)

// Thirds are the means of the first and the last third of the samples after the
// warm-up, which is the first tenth.
func (s Soak) Thirds() (first, last Sample, err error) {
	samples := s.Samples[len(s.Samples)/10:]
	third := len(samples) / 3
	if third == 0 {
		return Sample{}, Sample{}, fmt.Errorf("a soak of %d samples is too short to tell", len(s.Samples))
	}
	return mean(samples[:third]), mean(samples[len(samples)-third:]), nil
}

func mean(samples []Sample) Sample {
	var sum Sample
	for _, s := range samples {
		sum.At, sum.Resident = sum.At+s.At, sum.Resident+s.Resident
		sum.Goroutines, sum.Files = sum.Goroutines+s.Goroutines, sum.Files+s.Files
	}
	n := len(samples)
	return Sample{sum.At / time.Duration(n), sum.Resident / int64(n), sum.Goroutines / n, sum.Files / n}
}

// Growth is what grew from the first third to the last, beyond the slack.
func (s Soak) Growth() (grew []string, err error) {
	first, last, err := s.Thirds()
	if err != nil {
		return nil, err
	}
	for _, of := range []struct {
		name               string
		first, last, slack int64
	}{
		{"resident memory", first.Resident, last.Resident, memorySlack},
		{"goroutines", int64(first.Goroutines), int64(last.Goroutines), countSlack},
		{"open files", int64(first.Files), int64(last.Files), countSlack},
	} {
		if of.last > of.first+int64(resourceSlack*float64(of.first))+of.slack {
			grew = append(grew, fmt.Sprintf("%s from %d to %d", of.name, of.first, of.last))
		}
	}
	return grew, nil
}

// Markdown renders the thirds.
func (s Soak) Markdown() string {
	var b strings.Builder
	first, last, err := s.Thirds()
	if err != nil {
		return err.Error() + "\n"
	}
	fmt.Fprintf(&b, "%v at %.0f requests a second: %d certificates, %d failures.\n\n", s.Duration, s.Rate, s.Certificates, s.Failed)
	table(&b, []string{"", "resident MiB", "goroutines", "open files"}, [][]string{
		{"first third", mebibytes(first.Resident), fmt.Sprint(first.Goroutines), fmt.Sprint(first.Files)},
		{"last third", mebibytes(last.Resident), fmt.Sprint(last.Goroutines), fmt.Sprint(last.Files)},
	})
	return b.String()
}
