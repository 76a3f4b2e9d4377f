package ctlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

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
	poison  = pkix.Extension{Id: oidPoison, Critical: true, Value: []byte{5, 0}}
	sctList = pkix.Extension{Id: oidSCTList, Value: []byte{4, 0}}
)

func TestDefangRefuses(t *testing.T) {
	for name, der := range map[string][]byte{
		"no poison":               precertificate(t),
		"poison twice":            precertificate(t, poison, poison),
		"poison not critical":     precertificate(t, pkix.Extension{Id: oidPoison, Value: []byte{5, 0}}),
		"poison with a value":     precertificate(t, pkix.Extension{Id: oidPoison, Critical: true, Value: []byte{4, 0}}),
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
