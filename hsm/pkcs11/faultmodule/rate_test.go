package faultmodule

import (
	"testing"
	"time"
)

// TestSignatureRateIsThatOfTheToken: a token that takes 20 ms cannot be said to sign
// more than 50 times a second in a session, and sessions sign beside each other.
func TestSignatureRateIsThatOfTheToken(t *testing.T) {
	soft := NewSoftHSM(t)
	soft.Token("one")
	soft.Import("one", "issuing", "a1", newKey(t))
	m := soft.Module()
	m.Delay("Sign", 20*time.Millisecond)
	for _, c := range []struct {
		sessions    int
		above, most float64
	}{{1, 0, 50}, {4, 50, 200}} {
		before := m.Signatures()
		if got := m.SignatureRate(t, c.sessions); got <= c.above || got > c.most {
			t.Errorf("%d sessions: %.0f signatures/s, want more than %.0f and at most %.0f", c.sessions, got, c.above, c.most)
		}
		if m.Signatures() == before {
			t.Errorf("%d sessions: the token signed nothing", c.sessions)
		}
	}
}
