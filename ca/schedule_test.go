package ca

import (
	"fmt"
	mathrand "math/rand/v2"
	"testing"
	"time"
)

// The schedule answers what looking through all chains answers, for every order
// of the configuration and every moment.
func TestScheduleAgreesWithTheConfiguration(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(3, 4))
	at := func(n int) time.Time { return testTime.Add(time.Duration(n) * time.Hour) }
	var signed, none int
	for range 2000 {
		var chains []*Chain
		for i := range r.IntN(8) {
			c := &Chain{name: fmt.Sprint(i), authority: fmt.Sprint("authority-", r.IntN(2)), activate: at(r.IntN(6))}
			if r.IntN(3) == 0 {
				c.retire = c.activate.Add(time.Duration(1+r.IntN(4)) * time.Hour)
			}
			chains = append(chains, c)
		}
		s := newSchedule(chains)
		for hour := -1; hour < 12; hour++ {
			for _, authority := range []string{"authority-0", "authority-1", "authority-2"} {
				got, err := s.signing(authority, at(hour))
				want, wantErr := signing(chains, authority, at(hour))
				if got != want || fmt.Sprint(err) != fmt.Sprint(wantErr) {
					t.Fatalf("%d chains, %s, hour %d: got %+v, %v, want %+v, %v", len(chains), authority, hour, got, err, want, wantErr)
				}
				if want != nil {
					signed++
				} else {
					none++
				}
			}
		}
	}
	if signed < 1000 || none < 1000 {
		t.Errorf("%d answers and %d refusals, want at least 1000 of each for the test to mean anything", signed, none)
	}
}
