package fixedkey

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkVerify compares with crypto/ecdsa, in turns and by the clock of its own
// thread, so that what else the machine does at the time is not in the ratio.
func BenchmarkVerify(b *testing.B) {
	for _, c := range curves {
		b.Run(c.Params().Name, func(b *testing.B) {
			k, v := newSigner(b, c)
			digest := sha256.Sum256([]byte("benchmark"))
			signature := sign(b, k, digest[:])
			ours := func() bool { return v.Verify(digest[:], signature) }
			theirs := func() bool { return ecdsa.VerifyASN1(&k.PublicKey, digest[:], signature) }
			b.ReportAllocs()
			for b.Loop() {
				if !ours() {
					b.Fatal("a good signature was refused")
				}
			}
			least, other := time.Duration(1<<62), time.Duration(1<<62)
			for range 10 {
				least, other = min(least, cpu(b, ours)), min(other, cpu(b, theirs))
			}
			b.ReportMetric(float64(least)/float64(other), "cpu/crypto-ecdsa")
			b.ReportMetric(float64(least.Nanoseconds()), "cpu-ns/op")
		})
	}
}

// BenchmarkNew says what a key costs once.
func BenchmarkNew(b *testing.B) {
	for _, c := range curves {
		b.Run(c.Params().Name, func(b *testing.B) {
			k, _ := newSigner(b, c)
			b.ReportAllocs()
			for b.Loop() {
				newVerifier(b, &k.PublicKey)
			}
		})
	}
}

// cpu returns the thread's time for one call, over a few.
func cpu(b *testing.B, verify func() bool) time.Duration {
	const calls = 50
	clock := func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
			b.Fatal(err)
		}
		return time.Duration(t.Nano())
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := clock()
	for range calls {
		verify()
	}
	return (clock() - start) / calls
}
