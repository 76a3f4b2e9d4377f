package ctlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	ctx509 "github.com/google/certificate-transparency-go/x509"
)

func precertificate(t testing.TB, extensions ...pkix.Extension) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: extensions,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var (
	poisonOID  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	sctListOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

	poison  = pkix.Extension{Id: poisonOID, Critical: true, Value: []byte{5, 0}}
	sctList = pkix.Extension{Id: sctListOID, Value: []byte{4, 0}}
)

func TestDefangRefuses(t *testing.T) {
	for name, der := range map[string][]byte{
		"no poison":               precertificate(t),
		"poison twice":            precertificate(t, poison, poison),
		"poison not critical":     precertificate(t, pkix.Extension{Id: poisonOID, Value: []byte{5, 0}}),
		"poison with a value":     precertificate(t, pkix.Extension{Id: poisonOID, Critical: true, Value: []byte{4, 0}}),
		"an SCT list beside":      precertificate(t, poison, sctList),
		"nothing":                 nil,
		"an empty sequence":       {0x30, 0},
		"a trailing byte":         append(precertificate(t, poison), 0),
		"a length that is no DER": {0x30, 0x81, 0},
	} {
		if got, err := defang(der); err == nil {
			t.Errorf("%s: defang(%x) = %x, want an error", name, der, got)
		}
	}
}

// FuzzDefang holds our removal of the poison to that of
// certificate-transparency-go: where both succeed, they agree to the byte.
func FuzzDefang(f *testing.F) {
	f.Add(precertificate(f, poison))
	f.Add(precertificate(f, poison, sctList))
	f.Add(precertificate(f))
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := defang(der)
		if err != nil {
			return
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		want, err := ctx509.RemoveCTPoison(parsed.RawTBSCertificate)
		if err != nil {
			return
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("defang(%x)\n got %x\nwant %x", der, got, want)
		}
	})
}

// FuzzWellFormed holds what is an OBJECT IDENTIFIER for us to what is one for
// cryptobyte, which makes numbers of it.
func FuzzWellFormed(f *testing.F) {
	for _, seed := range []string{
		oidPoison, "", "\x80", "\x2a\x80\x01", "\x2a\x81", "\x2a\x87\xff\xff\xff\x7f", "\x2a\x88\x80\x80\x80\x00",
		"\x87\xff\xff\xff\x7f", "\x2a\x81\x80\x80\x80\x80\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		element := cryptobyte.String(append(appendHeader(nil, cbasn1.OBJECT_IDENTIFIER, len(content)), content...))
		var oid asn1.ObjectIdentifier
		want := element.ReadASN1ObjectIdentifier(&oid)
		if got := wellFormed(content); got != want {
			t.Fatalf("wellFormed(%x) = %t, cryptobyte says %t", content, got, want)
		}
	})
}

func TestAppendHeaderIsThatOfCryptobyte(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 20} {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(make([]byte, n)) })
		want := b.BytesOrPanic()
		if got := appendHeader(nil, cbasn1.SEQUENCE, n); !bytes.Equal(got, want[:len(want)-n]) || elementSize(n) != len(want) {
			t.Errorf("header of %d octets: %x, size %d; want %x, size %d", n, got, elementSize(n), want[:len(want)-n], len(want))
		}
	}
}

// The issuing certificate is compared to the byte, and only what was accepted is
// remembered.
func TestKnownIssuersAnswerWhatParsingWould(t *testing.T) {
	var k issuerKeys
	a, b := precertificate(t, poison), precertificate(t, poison)
	hash := func(der []byte) [32]byte {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(c.RawSubjectPublicKeyInfo)
	}
	changed := bytes.Clone(a)
	for range 3 { // nothing, once, twice known
		for _, c := range []struct {
			name string
			der  []byte
			hash [32]byte
			ok   bool
		}{
			{"a", a, hash(a), true}, {"b", b, hash(b), true},
			{"a for b", a, hash(b), false}, {"b for a", b, hash(a), false},
			{"a cut short", a[:len(a)-1], hash(a), false}, {"a and more", append(bytes.Clone(a), 0), hash(a), false},
			{"nothing", nil, hash(a), false}, {"no hash", a, [32]byte{}, false},
		} {
			if err := k.check(c.der, c.hash); (err == nil) != c.ok {
				t.Errorf("%s: %v, want accepted %t", c.name, err, c.ok)
			}
		}
	}
	// Whose slice it was may change it: what is remembered does not change.
	if err := k.check(changed, hash(a)); err != nil {
		t.Fatal(err)
	}
	sum := hash(a)
	for i := range changed {
		changed[i] = 0
	}
	if err := k.check(changed, sum); err == nil {
		t.Error("a certificate of zeros was taken for the one that its memory once held")
	}
}
