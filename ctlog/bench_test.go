package ctlog_test

import (
	"context"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// BenchmarkCheck is what a log of ours asks of a submission before it takes it.
func BenchmarkCheck(b *testing.B) {
	s := testca.New(b).Precertificate(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Check(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifySCT verifies an SCT, with crypto/ecdsa and with nothing in its
// place: what is left is ours.
func BenchmarkVerifySCT(b *testing.B) {
	s, l, now := testca.New(b).Precertificate(b), newFakeLog(b), time.Now()
	sct := l.sign(b, s, now, leafIndex7)
	key, err := ctlog.ParseKey(l.spki)
	if err != nil {
		b.Fatal(err)
	}
	for name, k := range map[string]*ctlog.Key{
		"ecdsa": key,
		"none":  key.VerifiedBy(func(_, _ []byte) bool { return true }),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := k.VerifySCT(s, sct, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// instantLog answers at once: what is left is the pool.
type instantLog struct{ sct ctlog.SCT }

func (instantLog) Name() string                                                  { return "instant" }
func (instantLog) ID() [32]byte                                                  { return [32]byte{1} }
func (instantLog) Ready() error                                                  { return nil }
func (l instantLog) Submit(context.Context, ctlog.Submission) (ctlog.SCT, error) { return l.sct, nil }

func BenchmarkPool(b *testing.B) {
	p, err := ctlog.NewPool(ctlog.PoolConfig{Logs: []ctlog.Log{instantLog{ctlog.SCT{LogID: [32]byte{1}}}}})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	s := testca.New(b).Precertificate(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Submit(context.Background(), s); err != nil {
			b.Fatal(err)
		}
	}
}
