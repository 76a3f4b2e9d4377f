package ca

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/titanous/rocacheck"
)

func randPrime(t testing.TB, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// nextPrime returns the first probable prime at or above n.
func nextPrime(n *big.Int) *big.Int {
	p := new(big.Int).SetBit(n, 0, 1)
	for !p.ProbablyPrime(10) {
		p.Add(p, big.NewInt(2))
	}
	return p
}

// wantWeakRSA fails unless the modulus is refused as a client's key, with a
// cause that names the weakness.
func wantWeakRSA(t *testing.T, what string, n *big.Int, cause string) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: rsaExponent})
	if err != nil {
		t.Fatal(err)
	}
	_, why := parsePublicKey(der)
	if why == nil || why.Reason != ReasonKeyWeak || !strings.Contains(why.Error(), cause) {
		t.Errorf("%s, modulus %x: got %v, want %s because of %q", what, n, why, ReasonKeyWeak, cause)
	}
}

func TestRSAModulusWithSmallFactorIsWeak(t *testing.T) {
	for _, p := range []int64{3, 5, 7, 751, 1021, 2029, 2039} {
		q := randPrime(t, 2048)
		n := new(big.Int).Div(q, big.NewInt(p))
		n.SetBit(n, 0, 1).Mul(n, big.NewInt(p))
		if n.BitLen() != 2048 {
			n.Sub(n, big.NewInt(2*p))
		}
		wantWeakRSA(t, fmt.Sprintf("factor %d", p), n, "small prime")
	}
	even := randPrime(t, 2048)
	wantWeakRSA(t, "even", even.SetBit(even, 0, 0), "even")
}

func TestRSAModulusWithCloseFactorsIsWeak(t *testing.T) {
	for _, bits := range []int{2048, 3072} {
		p := randPrime(t, bits/2)
		wantWeakRSA(t, "square", new(big.Int).Mul(p, p), "too close")
		wantWeakRSA(t, "next prime", new(big.Int).Mul(p, nextPrime(new(big.Int).Add(p, big.NewInt(2)))), "too close")
		// The first factorization that takes more than one round has a
		// difference of about the fourth root of n.
		far := new(big.Int).Lsh(big.NewInt(1), uint(bits/4+2))
		wantWeakRSA(t, "far", new(big.Int).Mul(p, nextPrime(far.Add(far, p))), "too close")
	}
}

// The modulus of an Infineon key (CVE-2017-15361): each prime is k M + 65537^a
// mod M, with M the product of the first 126 primes for 2048 bits.
func TestRSAModulusWithROCAMarkIsWeak(t *testing.T) {
	m := big.NewInt(1)
	for i, count := int64(2), 0; count < 126; i++ {
		if p := big.NewInt(i); p.ProbablyPrime(0) {
			m.Mul(m, p)
			count++
		}
	}
	rocaPrime := func() *big.Int {
		for {
			a, err := rand.Int(rand.Reader, m)
			if err != nil {
				t.Fatal(err)
			}
			k, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 40))
			if err != nil {
				t.Fatal(err)
			}
			// The upper half of 1024 bit numbers, so that the product has 2048.
			floor := new(big.Int).Lsh(big.NewInt(3), 1022)
			k.Add(k, floor.Div(floor, m)).Add(k, big.NewInt(1))
			p := k.Mul(k, m)
			p.Add(p, new(big.Int).Exp(big.NewInt(65537), a, m))
			if p.BitLen() == 1024 && p.ProbablyPrime(5) {
				return p
			}
		}
	}
	wantWeakRSA(t, "ROCA", new(big.Int).Mul(rocaPrime(), rocaPrime()), "ROCA")
}

// fermatNaively is Fermat's method as the textbook has it.
func fermatNaively(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	if new(big.Int).Mul(a, a).Cmp(n) < 0 {
		a.Add(a, big.NewInt(1))
	}
	for range fermatRounds {
		b2 := new(big.Int).Mul(a, a)
		b2.Sub(b2, n)
		b := new(big.Int).Sqrt(b2)
		if b.Mul(b, b).Cmp(b2) == 0 {
			return true
		}
		a.Add(a, big.NewInt(1))
	}
	return false
}

// Small numbers make both answers common, and the last rounds matter.
func TestFermatAgreesWithTheTextbook(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	var near, far int
	for range 20_000 {
		n := new(big.Int).SetUint64(r.Uint64N(1<<26) | 1<<25 | 1)
		got, want := fermatClose(n), fermatNaively(n)
		if got != want {
			t.Fatalf("fermatClose(%v) = %v, want %v", n, got, want)
		}
		if want {
			near++
		} else {
			far++
		}
	}
	if near < 1000 || far < 1000 {
		t.Errorf("%d close and %d far, want at least 1000 of each for the test to mean anything", near, far)
	}
}

// closeFactors returns the product of two primes that Fermat's method finds in
// exactly that round, the first being 1.
func closeFactors(rounds int64) *big.Int {
	root := new(big.Int).Lsh(big.NewInt(1), 60)
	// a^2 - b^2 has its root, rounded up, at a - (rounds-1) for b^2 of about
	// 2 a (rounds - 1/2).
	a := new(big.Int).Add(root, big.NewInt(rounds))
	b := new(big.Int).Mul(a, big.NewInt(2*rounds-1))
	for b.Sqrt(b).SetBit(b, 0, 1-a.Bit(0)); ; b.Add(b, big.NewInt(2)) {
		p, q := new(big.Int).Sub(a, b), new(big.Int).Add(a, b)
		if p.ProbablyPrime(10) && q.ProbablyPrime(10) {
			return p.Mul(p, q)
		}
	}
}

func TestFermatTakesOneHundredRounds(t *testing.T) {
	for rounds, want := range map[int64]bool{1: true, 2: true, 64: true, 99: true, 100: true, 101: false, 102: false} {
		if n := closeFactors(rounds); fermatClose(n) != want {
			t.Errorf("fermatClose(%v), with factors to be found in round %d: got %v, want %v", n, rounds, !want, want)
		}
	}
}

func TestHonestRSAModulusIsNotWeak(t *testing.T) {
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkRSA(&key.PublicKey); err != nil {
			t.Errorf("modulus %x: got %v, want no objection", key.N, err)
		}
	}
}

// About half of all 32 octets are a point. A check that accepts or refuses all
// of them is broken, and one that refuses a real key is worse.
func TestEd25519CheckTellsPointsFromNoise(t *testing.T) {
	var points int
	for range 1000 {
		var noise [32]byte
		rand.Read(noise[:])
		if checkEd25519(noise) == nil {
			points++
		}
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkEd25519([32]byte(pub)); err != nil {
			t.Fatalf("key %x: got %v, want no objection", pub, err)
		}
	}
	if points < 350 || points > 650 {
		t.Errorf("%d of 1000 random strings were points, want about 500", points)
	}
}

// primorial is the product of the odd primes below smallPrimeLimit.
var primorial = sync.OnceValue(func() *big.Int {
	product := big.NewInt(1)
	for i := int64(3); i < smallPrimeLimit; i += 2 {
		if p := big.NewInt(i); p.ProbablyPrime(0) {
			product.Mul(product, p)
		}
	}
	return product
})

func TestSmallPrimesAreTheOddPrimes(t *testing.T) {
	product, last := big.NewInt(1), uint64(2)
	for _, g := range smallPrimes() {
		of := uint64(1)
		for _, p := range g.primes {
			if p <= last {
				t.Errorf("%d comes after %d", p, last)
			}
			of, last = of*p, p
		}
		if g.product.n != of {
			t.Errorf("primes %v have the product %d, want %d", g.primes, g.product.n, of)
		}
		product.Mul(product, new(big.Int).SetUint64(of))
	}
	if product.Cmp(primorial()) != 0 {
		t.Errorf("the product of all is %v, want %v", product, primorial())
	}
}

// FuzzWeakArithmetic compares what is computed here with math/big.
func FuzzWeakArithmetic(f *testing.F) {
	f.Add([]byte{1}, uint64(1))
	f.Add(bytes.Repeat([]byte{0xff}, 512), uint64(math.MaxUint64))
	f.Add(new(big.Int).Mul(primorial(), big.NewInt(4)).Bytes(), uint64(2039))
	f.Add(new(big.Int).Exp(big.NewInt(2053), big.NewInt(370), nil).Bytes(), uint64(1)<<63)
	f.Fuzz(func(t *testing.T, number []byte, divide uint64) {
		n := new(big.Int).SetBytes(number[:min(len(number), maxWords*8)])
		if n.Sign() == 0 || divide == 0 {
			return
		}
		if got, want := newDivisor(divide).mod(words(n)), new(big.Int).Mod(n, new(big.Int).SetUint64(divide)).Uint64(); got != want {
			t.Errorf("%v mod %d: got %d, want %d", n, divide, got, want)
		}
		if got, want := squareRoot(n), new(big.Int).Sqrt(n); got.Cmp(want) != 0 {
			t.Errorf("root of %v: got %v, want %v", n, got, want)
		}
		if got, want := hasSmallFactor(words(n)), new(big.Int).GCD(nil, nil, n, primorial()).BitLen() > 1; got != want {
			t.Errorf("a small prime divides %v: got %v, want %v", n, got, want)
		}
	})
}

// FuzzIsSquare compares with math/big, for the prime of Ed25519 and others.
func FuzzIsSquare(f *testing.F) {
	primes := []*big.Int{curve25519().p, big.NewInt(3), big.NewInt(65537), new(big.Int).SetUint64(1<<64 - 59)}
	for _, c := range curves[:1] { // P-256: its field and its order have all 256 bits
		primes = append(primes, c.curve.Params().P, c.curve.Params().N)
	}
	for i := range primes {
		f.Add([]byte{}, uint8(i))
		f.Add([]byte{2}, uint8(i))
		f.Add(new(big.Int).Sub(primes[i], big.NewInt(1)).Bytes(), uint8(i))
		f.Add(new(big.Int).Lsh(big.NewInt(5), 192).Bytes(), uint8(i))
	}
	f.Fuzz(func(t *testing.T, number []byte, which uint8) {
		p := primes[int(which)%len(primes)]
		n := new(big.Int).SetBytes(number[:min(len(number), 64)])
		n.Mod(n, p)
		if got, want := isSquare(n, p), big.Jacobi(n, p) == 1; got != want {
			t.Fatalf("%v is a square modulo %v: got %v, want %v", n, p, got, want)
		}
	})
}

// FuzzParsePublicKey: no input panics, and an accepted key is the canonical
// encoding of a key that crypto/x509 reads as the same.
func FuzzParsePublicKey(f *testing.F) {
	files, err := filepath.Glob("testdata/keys/*.pub")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		block, _ := pem.Decode(text)
		f.Add(text)
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		k, why := parsePublicKey(in)
		if why != nil {
			if why.Kind != KindInvalid || !strings.HasPrefix(string(why.Reason), "key_") || k.public != nil {
				t.Fatalf("parsePublicKey(%q) = %v, %v, want a key_ refusal and no key", in, k.public, why)
			}
			return
		}
		pub, err := x509.ParsePKIXPublicKey(k.spki)
		if err != nil || !pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.public) {
			t.Fatalf("parsePublicKey(%q): SPKI %x reads as %v, %v, want %v", in, k.spki, pub, err, k.public)
		}
		if der, err := x509.MarshalPKIXPublicKey(k.public); err != nil || !bytes.Equal(der, k.spki) {
			t.Fatalf("parsePublicKey(%q): SPKI %x, and crypto/x509 encodes %x, %v", in, k.spki, der, err)
		}
		again, why := parsePublicKey(k.spki)
		if why != nil || again.kind != k.kind || !bytes.Equal(again.spki, k.spki) || !bytes.Equal(again.bits, k.bits) {
			t.Fatalf("parsePublicKey(%q): reading its SPKI again gives %s %x, %v, want %s %x", in, again.kind, again.spki, why, k.kind, k.spki)
		}
	})
}

func BenchmarkParseRSA(b *testing.B) {
	for _, bits := range []int{2048, 3072, 4096} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			b.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(bits), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, why := parsePublicKey(der); why != nil {
					b.Fatal(why)
				}
			}
		})
	}
}

func BenchmarkCheckRSA(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		b.Fatal(err)
	}
	for name, check := range map[string]func(){
		"small primes":    func() { hasSmallFactor(words(key.N)) },
		"ROCA":            func() { rocacheck.IsWeak(&key.PublicKey) },
		"fermat":          func() { fermatClose(key.N) },
		"fermat textbook": func() { fermatNaively(key.N) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				check()
			}
		})
	}
}
