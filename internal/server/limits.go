package server

import (
	"cmp"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// maxKeys bounds the memory of a limiter, at some 200 bytes a key. Whoever
// commands more addresses than this can push out buckets, his own among them,
// and is then held by the limit of connections alone and, if his tokens verify,
// by that of issuances in flight.
const maxKeys = 1 << 16

// complete checks limits and puts in the defaults.
func (l *Limits) complete() error {
	var err error
	if l.PerIdentity, err = l.PerIdentity.complete(60); err != nil {
		return fmt.Errorf("limit per identity: %w", err)
	}
	if l.PerAddress, err = l.PerAddress.complete(600); err != nil {
		return fmt.Errorf("limit per address: %w", err)
	}
	l.InFlight = cmp.Or(l.InFlight, 256)
	l.TokenBytes = cmp.Or(l.TokenBytes, 16<<10)
	if l.InFlight < 0 {
		return fmt.Errorf("in-flight limit %d is negative", l.InFlight)
	}
	if l.TokenBytes < 0 || l.TokenBytes > maxTokenBytes {
		return fmt.Errorf("token limit %d is not between 1 and %d", l.TokenBytes, maxTokenBytes)
	}
	return nil
}

func (r Rate) complete(count int) (Rate, error) {
	r.Count = cmp.Or(r.Count, count)
	r.Per = cmp.Or(r.Per, time.Minute)
	r.Burst = cmp.Or(r.Burst, r.Count)
	if r.Count < 0 || r.Per < 0 || r.Burst < 0 {
		return Rate{}, fmt.Errorf("%d per %s, burst %d: negative", r.Count, r.Per, r.Burst)
	}
	return r, nil
}

// keyedLimiter holds one token bucket per key, for the keys used last.
type keyedLimiter[K comparable] struct {
	rate    Rate
	buckets *lru.Cache[K, *rate.Limiter]
}

func newKeyedLimiter[K comparable](r Rate, keys int) *keyedLimiter[K] {
	buckets, err := lru.New[K, *rate.Limiter](keys)
	if err != nil {
		panic("server: the limiter's size is a positive constant: " + err.Error()) //nolint:forbidigo // says which
	}
	return &keyedLimiter[K]{rate: r, buckets: buckets}
}

// take uses up one token of the key's bucket. When there is none it returns how
// long to wait for the next; a refused request costs nothing.
func (l *keyedLimiter[K]) take(key K, now time.Time) (wait time.Duration, ok bool) {
	bucket, found := l.buckets.Get(key)
	if !found {
		bucket = rate.NewLimiter(rate.Every(l.rate.Per/time.Duration(l.rate.Count)), l.rate.Burst)
		// Someone else may have been quicker; then his bucket counts.
		if other, found, _ := l.buckets.PeekOrAdd(key, bucket); found {
			bucket = other
		}
	}
	if bucket.AllowN(now, 1) {
		return 0, true
	}
	missing := max(0, 1-bucket.TokensAt(now))
	return time.Duration(missing * float64(l.rate.Per) / float64(l.rate.Count)), false
}

// addressKey is what a client's address counts as: an IPv4 address by itself,
// an IPv6 address by its /64.
func addressKey(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	key, err := addr.Prefix(bits)
	if err != nil { // no address: all such clients share a bucket
		return netip.Prefix{}
	}
	return key
}

// The lines about requests of unverified identity, which anybody can cause, and
// about those beyond the in-flight limit: so many per second and at once. A flood
// would otherwise fill the disk that the journal needs, and tell nothing that
// metrics do not count.
const (
	anonymousLines = 50
	anonymousBurst = 2000
)

// lineLimit bounds lines in the log and counts those that it leaves out.
type lineLimit struct {
	limiter *rate.Limiter
	out     atomic.Int64
}

func newLineLimit() *lineLimit {
	return &lineLimit{limiter: rate.NewLimiter(anonymousLines, anonymousBurst)}
}

// take reports whether a line may be written, and how many before it were not.
func (l *lineLimit) take(now time.Time) (left int64, ok bool) {
	if !l.limiter.AllowN(now, 1) {
		l.out.Add(1)
		return 0, false
	}
	return l.out.Swap(0), true
}
