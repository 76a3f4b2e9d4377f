package ca

import (
	"slices"
	"time"
)

// Certificate is an issued certificate.
type Certificate struct {
	// DER is the certificate.
	DER                 []byte
	Serial              [20]byte
	NotBefore, NotAfter time.Time
	chain               *Chain
	sct                 SCT
}

// PEM returns the certificate first and the root last, each without a final
// newline.
func (c Certificate) PEM() []string { return append([]string{encodePEM(c.DER)}, c.chain.pems...) }

// HasSCT reports that the certificate was logged; false only when the operator
// switched logging off.
func (c Certificate) HasSCT() bool { return len(c.sct.TLS) > 0 }

// SCT returns the embedded SCT; zero when logging is off.
func (c Certificate) SCT() SCT { return c.sct }

// TrustBundle returns the published chains of an authority at the present time,
// the signing one first, the others by activation, latest first. Retired chains
// stay until they are removed: signatures made under them must verify. Each is
// followed by its cross-signed paths, as chains of the same name.
func (a *Authority) TrustBundle(authority string) []*Chain {
	now := a.clock()
	var bundle []*Chain
	for _, c := range a.chains {
		if c.authority == orDefault(authority) && c.published(now) {
			bundle = append(bundle, c)
		}
	}
	slices.SortStableFunc(bundle, func(x, y *Chain) int {
		if xf, yf := x.activate.After(now), y.activate.After(now); xf != yf {
			if xf {
				return 1
			}
			return -1
		}
		return y.activate.Compare(x.activate)
	})
	withCross := make([]*Chain, 0, len(bundle))
	for _, c := range bundle {
		withCross = append(append(withCross, c), c.crossSigned...)
	}
	return withCross
}

// Ready reports why no certificate could be issued now: the chain that signs by
// default, its key, the recorder, the log and the clock, by name, nil for those
// that are well. It does no I/O.
func (a *Authority) Ready() map[string]error {
	now, clockErr := a.readClock()
	ready := map[string]error{"clock": clockErr, "audit": a.recorder.Ready()}
	chain, err := a.schedule.signing(DefaultName, now)
	ready["chain"] = err
	if err == nil {
		_, _, ready["chain"] = a.profiles[DefaultName].validity(now, chain)
		ready["signer"] = chain.signerReady()
	}
	if a.log != nil {
		ready["log"] = a.log.Ready()
	}
	return ready
}
