package pkcs11

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// testDigest is of a message that cannot be taken for anything to be signed:
// a certificate begins with a SEQUENCE, and this with words.
func testDigest() []byte {
	sum := sha256.Sum256([]byte("mayfly hsm doctor test " + rand.Text()))
	return sum[:]
}

// signs has the key sign, once and then as fast as it can.
func (d *doctor) signs(ctx context.Context, k KeyConfig, o Object) {
	begin := time.Now()
	if _, err := d.visit.sign(d.visit.session, o, testDigest()); err != nil {
		d.report(Problem, k.Name, "look at the token's own log; a key that does not sign here does not sign for the service", "test signature: %v", err)
		return
	}
	d.report(OK, k.Name, "", "a test signature took %s and verifies", time.Since(begin).Round(10*time.Microsecond))
	alone, err := d.rate(ctx, o, []p11.SessionHandle{d.visit.session})
	if err != nil {
		d.report(Problem, k.Name, "look at the token's own log", "signing in one session: %v", err)
		return
	}
	all := append([]p11.SessionHandle{d.visit.session}, d.extra...)
	together, err := d.rate(ctx, o, all)
	if err != nil {
		d.report(Problem, k.Name, "lower max_sessions until this passes, and look at the token's own log", "signing in %d sessions at once: %v", len(all), err)
		return
	}
	d.report(OK, k.Name, "", "%.0f signatures a second in one session, %.0f in %d: about %.0f certificates a second (each needs two)",
		alone, together, len(all), max(alone, together)/2)
	if len(all) > 2 && together < alone {
		d.report(Note, k.Name, "a smaller max_sessions, such as 2, may be faster", "more sessions make this token slower")
	}
}

// rate signs in all sessions at once and returns verified signatures a second.
func (d *doctor) rate(ctx context.Context, o Object, sessions []p11.SessionHandle) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, d.config.Throughput)
	defer cancel()
	var made atomic.Int64
	var once sync.Once
	var first error
	var workers sync.WaitGroup
	begin := time.Now()
	for _, s := range sessions {
		workers.Go(func() {
			for ctx.Err() == nil {
				if _, err := d.visit.sign(s, o, testDigest()); err != nil {
					once.Do(func() { first = err; cancel() })
					return
				}
				made.Add(1)
			}
		})
	}
	workers.Wait()
	if first != nil {
		return 0, first
	}
	return float64(made.Load()) / time.Since(begin).Seconds(), nil
}
