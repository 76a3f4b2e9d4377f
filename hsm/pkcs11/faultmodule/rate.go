package faultmodule

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// rateFor is how long the signatures of a rate are counted.
const rateFor = time.Second

// SignatureRate returns how many signatures with an ECDSA key the first token makes
// in a second in so many sessions, with nothing around the calls of PKCS#11: what
// a signer above it can be measured by. The module must not be in use in this
// process, for it is initialised and finalised here.
func (m *Module) SignatureRate(tb testing.TB, sessions int) float64 {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatalf("measuring the token's own rate in %d sessions: %v", sessions, err)
		}
	}
	ctx := p11.New(m.Path)
	defer ctx.Destroy()
	must(ctx.Initialize())
	defer func() { must(ctx.Finalize()) }()
	slots, err := ctx.GetSlotList(true)
	must(err)
	if len(slots) == 0 || sessions <= 0 {
		tb.Fatalf("measuring the token's own rate: %d slots and %d sessions, want some of both", len(slots), sessions)
	}
	open := make([]p11.SessionHandle, sessions)
	for i := range open {
		open[i], err = ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION)
		must(err)
	}
	must(ctx.Login(open[0], p11.CKU_USER, PIN))
	must(ctx.FindObjectsInit(open[0], []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
	}))
	keys, _, err := ctx.FindObjects(open[0], 1)
	must(err)
	must(ctx.FindObjectsFinal(open[0]))
	if len(keys) == 0 {
		tb.Fatal("measuring the token's own rate: it has no ECDSA key")
	}
	rate, err := signFor(ctx, open, keys[0])
	must(err)
	return rate
}

// signFor signs in all sessions at once and returns how many signatures there were
// in a second.
func signFor(ctx *p11.Ctx, sessions []p11.SessionHandle, key p11.ObjectHandle) (float64, error) {
	digest := sha256.Sum256([]byte("to be signed")) // always the same, so that Replay may answer
	failed := make(chan error, len(sessions))
	var made atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for _, s := range sessions {
		wg.Go(func() {
			for time.Since(start) < rateFor {
				err := ctx.SignInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, key)
				if err == nil {
					_, err = ctx.Sign(s, digest[:])
				}
				if err != nil {
					failed <- err
					return
				}
				made.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	select {
	case err := <-failed:
		return 0, err
	default:
		return float64(made.Load()) / took.Seconds(), nil
	}
}
