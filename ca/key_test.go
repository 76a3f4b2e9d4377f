package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
)

// keyForms are the encodings of a public key that stock clients send.
func keyForms(der []byte) map[string][]byte {
	wrapped := pemOf("PUBLIC KEY", der)
	return map[string][]byte{
		"DER":                      der, // gitsign and others over the v1 API
		"PEM":                      wrapped,
		"PEM without last newline": bytes.TrimSpace(wrapped),
		"PEM with CRLF":            bytes.ReplaceAll(wrapped, []byte("\n"), []byte("\r\n")),
		// sigstore-java.
		"PEM unwrapped": []byte("-----BEGIN PUBLIC KEY-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END PUBLIC KEY-----"),
	}
}

// wantKeyRefused fails unless the key is refused for the reason, whatever the
// signature, as DER and in PEM.
func wantKeyRefused(t *testing.T, what string, der []byte, want ca.Reason) {
	t.Helper()
	k, err := ca.ProveSignature(der, []byte("signature"), jane)
	wantRefusal(t, what+", DER", k, err, want)
	k, err = ca.ProveSignature(pemOf("PUBLIC KEY", der), []byte("signature"), jane)
	wantRefusal(t, what+", PEM", k, err, want)
}

// rawSPKI encodes a SubjectPublicKeyInfo that crypto/x509 would refuse to make.
func rawSPKI(t testing.TB, oid asn1.ObjectIdentifier, params, bits []byte) []byte {
	t.Helper()
	type algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue `asn1:"optional"`
	}
	der, err := asn1.Marshal(struct {
		Algorithm algorithm
		Bits      asn1.BitString
	}{algorithm{oid, asn1.RawValue{FullBytes: params}}, asn1.BitString{Bytes: bits, BitLength: 8 * len(bits)}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
	derNull    = []byte{5, 0}
)

func rawRSA(t testing.TB, n, e *big.Int) []byte {
	t.Helper()
	bits, err := asn1.Marshal(struct{ N, E *big.Int }{n, e})
	if err != nil {
		t.Fatal(err)
	}
	return rawSPKI(t, oidRSA, derNull, bits)
}

func TestKeyThatCannotBeReadIsMalformed(t *testing.T) {
	good := spkiDER(t, keys()[ca.KeyECDSAP256].Public())
	block := pemOf("PUBLIC KEY", good)
	for _, c := range []struct {
		what string
		in   []byte
		want ca.Reason
	}{
		{"nothing", nil, ca.ReasonKeyMissing},
		{"white space", []byte(" \r\n\t"), ca.ReasonKeyMissing},
		{"oversized DER", append(bytes.Clone(good), make([]byte, 16<<10)...), ca.ReasonKeyMalformed},
		{"oversized PEM", append(bytes.Clone(block), bytes.Repeat([]byte("\n"), 16<<10)...), ca.ReasonKeyMalformed},
		{"text", []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDk= jane"), ca.ReasonKeyMalformed},
		{"trailing DER", append(bytes.Clone(good), 0), ca.ReasonKeyMalformed},
		{"trailing newline after DER", append(bytes.Clone(good), '\n'), ca.ReasonKeyMalformed},
		{"trailing DER in PEM", pemOf("PUBLIC KEY", append(bytes.Clone(good), 0)), ca.ReasonKeyMalformed},
		{"truncated", good[:len(good)-1], ca.ReasonKeyMalformed},
		{"text after PEM", append(bytes.Clone(block), "x"...), ca.ReasonKeyMalformed},
		{"text before PEM", append([]byte("x\n"), block...), ca.ReasonKeyMalformed},
		{"two blocks", append(bytes.Clone(block), block...), ca.ReasonKeyMalformed},
		{"broken block before a good one", append([]byte("-----BEGIN PUBLIC KEY-----\n!\n"), block...), ca.ReasonKeyMalformed},
		{"PEM headers", bytes.Replace(block, []byte("\n"), []byte("\nA: b\n\n"), 1), ca.ReasonKeyMalformed},
		{"PEM without end", block[:len(block)-10], ca.ReasonKeyMalformed},
		{"empty PEM", pemOf("PUBLIC KEY", nil), ca.ReasonKeyMalformed},
		{"private key", pemOf("PRIVATE KEY", good), ca.ReasonKeyUnsupported},
		{"certificate", pemOf("CERTIFICATE", good), ca.ReasonKeyUnsupported},
		{"PKCS #1", pemOf("RSA PUBLIC KEY", good), ca.ReasonKeyUnsupported},
		// BER, not DER: the outer length in one octet more than it needs.
		{"long form length", slices.Concat([]byte{0x30, 0x81, good[1]}, good[2:]), ca.ReasonKeyMalformed},
		{"indefinite length", slices.Concat([]byte{0x30, 0x80}, good[2:], []byte{0, 0}), ca.ReasonKeyMalformed},
	} {
		k, err := ca.ProveSignature(c.in, []byte("signature"), jane)
		wantRefusal(t, c.what, k, err, c.want)
	}
}

func TestKeyOfOtherAlgorithmsIsUnsupported(t *testing.T) {
	for what, der := range map[string][]byte{
		"X25519":     rawSPKI(t, asn1.ObjectIdentifier{1, 3, 101, 110}, nil, make([]byte, 32)),
		"Ed448":      rawSPKI(t, asn1.ObjectIdentifier{1, 3, 101, 113}, nil, make([]byte, 57)),
		"DSA":        rawSPKI(t, asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, []byte{0x30, 0}, []byte{2, 1, 5}),
		"RSASSA-PSS": rawSPKI(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, nil, []byte{0x30, 0}),
		"ML-DSA-65":  rawSPKI(t, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, nil, make([]byte, 1952)),
		"secp256k1":  rawSPKI(t, oidEC, []byte{6, 5, 0x2b, 0x81, 4, 0, 10}, make([]byte, 65)),
		// RFC 5480: "implicitCurve and specifiedCurve MUST NOT be used in PKIX".
		"explicit curve": rawSPKI(t, oidEC, []byte{0x30, 3, 2, 1, 1}, make([]byte, 65)),
		"no curve":       rawSPKI(t, oidEC, derNull, make([]byte, 65)),
	} {
		wantKeyRefused(t, what, der, ca.ReasonKeyUnsupported)
	}
}

func TestECKeyOffItsCurveIsWeak(t *testing.T) {
	named := map[elliptic.Curve][]byte{
		elliptic.P224(): {6, 5, 0x2b, 0x81, 4, 0, 33},
		elliptic.P256(): {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7},
		elliptic.P384(): {6, 5, 0x2b, 0x81, 4, 0, 34},
		elliptic.P521(): {6, 5, 0x2b, 0x81, 4, 0, 35},
	}
	for curve, params := range named {
		p := curve.Params()
		size := (p.BitSize + 7) / 8
		point := func(x, y *big.Int) []byte {
			return slices.Concat([]byte{4}, x.FillBytes(make([]byte, size)), y.FillBytes(make([]byte, size)))
		}
		base := point(p.Gx, p.Gy)
		if curve == elliptic.P224() {
			wantKeyRefused(t, "P-224", rawSPKI(t, oidEC, params, base), ca.ReasonKeyWeak)
			continue
		}
		for what, c := range map[string]struct {
			bits []byte
			want ca.Reason
		}{
			// The generator itself is a valid key, so the table can be trusted.
			"generator":         {base, ca.ReasonProofInvalid},
			"infinity":          {[]byte{0}, ca.ReasonKeyWeak},
			"zeros":             {point(new(big.Int), new(big.Int)), ca.ReasonKeyWeak},
			"off by one":        {point(p.Gx, new(big.Int).Add(p.Gy, big.NewInt(1))), ca.ReasonKeyWeak},
			"coordinates of p":  {point(p.P, p.P), ca.ReasonKeyWeak},
			"compressed":        {elliptic.MarshalCompressed(curve, p.Gx, p.Gy), ca.ReasonKeyMalformed},
			"hybrid":            {append([]byte{6}, base[1:]...), ca.ReasonKeyMalformed},
			"short":             {base[:len(base)-1], ca.ReasonKeyMalformed},
			"long":              {append(bytes.Clone(base), 0), ca.ReasonKeyMalformed},
			"empty":             {nil, ca.ReasonKeyMalformed},
			"infinity, padded":  {make([]byte, len(base)), ca.ReasonKeyMalformed},
			"two zeros for one": {[]byte{0, 0}, ca.ReasonKeyMalformed},
		} {
			wantKeyRefused(t, p.Name+" "+what, rawSPKI(t, oidEC, params, c.bits), c.want)
		}
	}
	// 66 octets leave room for x + p, which a lax reader takes for x.
	p := elliptic.P521().Params()
	x := new(big.Int).Add(p.Gx, p.P)
	bits := slices.Concat([]byte{4}, x.FillBytes(make([]byte, 66)), p.Gy.FillBytes(make([]byte, 66)))
	wantKeyRefused(t, "P-521 x + p", rawSPKI(t, oidEC, named[elliptic.P521()], bits), ca.ReasonKeyWeak)
	// A point of P-256 that claims another curve.
	k := keys()[ca.KeyECDSAP256].Public().(*ecdsa.PublicKey)
	raw, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	wantKeyRefused(t, "P-256 point on P-384", rawSPKI(t, oidEC, named[elliptic.P384()], raw), ca.ReasonKeyMalformed)
}

func TestEd25519KeyOfSmallOrderIsWeak(t *testing.T) {
	// The eight points of small order and their other encodings, as libsodium
	// lists them; each with both values of the sign bit.
	for _, y := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000", // 0, order 4
		"0100000000000000000000000000000000000000000000000000000000000000", // 1, order 1
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p-1, order 2
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p, that is 0
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p+1, that is 1
	} {
		key, err := hex.DecodeString(y)
		if err != nil {
			t.Fatal(err)
		}
		for _, sign := range []byte{0, 0x80} {
			key[31] = key[31]&0x7f | sign
			wantKeyRefused(t, "Ed25519 "+hex.EncodeToString(key), rawSPKI(t, oidEd25519, nil, key), ca.ReasonKeyWeak)
		}
	}
}

func TestEd25519KeyEncodedInAnotherWayIsRefused(t *testing.T) {
	good := keys()[ca.KeyEd25519].Public().(ed25519.PublicKey)
	// y = p+2 to p+18, the rest of what fits into 255 bits.
	for low := 0xef; low <= 0xff; low++ {
		key := bytes.Repeat([]byte{0xff}, 32)
		key[0], key[31] = byte(low), 0x7f
		wantKeyRefused(t, "Ed25519 "+hex.EncodeToString(key), rawSPKI(t, oidEd25519, nil, key), ca.ReasonKeyWeak)
	}
	wantKeyRefused(t, "31 octets", rawSPKI(t, oidEd25519, nil, good[:31]), ca.ReasonKeyMalformed)
	wantKeyRefused(t, "33 octets", rawSPKI(t, oidEd25519, nil, append(bytes.Clone(good), 0)), ca.ReasonKeyMalformed)
	wantKeyRefused(t, "NULL parameters", rawSPKI(t, oidEd25519, derNull, good), ca.ReasonKeyMalformed)
	// y = 2 is not on the curve: (4 - 1) / (4 d + 1) is no square.
	wantKeyRefused(t, "y = 2", rawSPKI(t, oidEd25519, nil, append([]byte{2}, make([]byte, 31)...)), ca.ReasonKeyWeak)
}

func TestRSAKeyOfUnusualShapeIsRefused(t *testing.T) {
	pub := keys()[ca.KeyRSA2048].Public().(*rsa.PublicKey)
	f4 := big.NewInt(65537)
	odd := func(bits int) *big.Int {
		n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
		return n.SetBit(n, bits-2, 1)
	}
	for _, c := range []struct {
		what string
		der  []byte
		want ca.Reason
	}{
		{"512 bits", rawRSA(t, odd(512), f4), ca.ReasonKeyWeak},
		{"1024 bits", rawRSA(t, odd(1024), f4), ca.ReasonKeyWeak},
		{"2047 bits", rawRSA(t, odd(2047), f4), ca.ReasonKeyWeak},
		{"2049 bits", rawRSA(t, odd(2049), f4), ca.ReasonKeyUnsupported},
		{"2056 bits", rawRSA(t, odd(2056), f4), ca.ReasonKeyUnsupported},
		{"4097 bits", rawRSA(t, odd(4097), f4), ca.ReasonKeyUnsupported},
		{"8192 bits", rawRSA(t, odd(8192), f4), ca.ReasonKeyUnsupported},
		{"65536 bits", rawRSA(t, odd(65536), f4), ca.ReasonKeyUnsupported},
		{"exponent 1", rawRSA(t, pub.N, big.NewInt(1)), ca.ReasonKeyWeak},
		{"exponent 3", rawRSA(t, pub.N, big.NewInt(3)), ca.ReasonKeyWeak},
		{"exponent 65539", rawRSA(t, pub.N, big.NewInt(65539)), ca.ReasonKeyWeak},
		{"even exponent", rawRSA(t, pub.N, big.NewInt(65536)), ca.ReasonKeyWeak},
		{"exponent 2^32 + 65537", rawRSA(t, pub.N, big.NewInt(1<<32+65537)), ca.ReasonKeyWeak},
		{"exponent 2^64 + 65537", rawRSA(t, pub.N, new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 64), f4)), ca.ReasonKeyWeak},
		{"exponent 2^4096", rawRSA(t, pub.N, odd(4096)), ca.ReasonKeyWeak},
		{"exponent 0", rawRSA(t, pub.N, new(big.Int)), ca.ReasonKeyMalformed},
		{"exponent negative", rawRSA(t, pub.N, big.NewInt(-65537)), ca.ReasonKeyMalformed},
		{"modulus 0", rawRSA(t, new(big.Int), f4), ca.ReasonKeyMalformed},
		{"modulus negative", rawRSA(t, new(big.Int).Neg(pub.N), f4), ca.ReasonKeyMalformed},
		{"no parameters", rawSPKI(t, oidRSA, nil, spkiDER(t, pub)[24:]), ca.ReasonKeyMalformed},
		{"parameters not NULL", rawSPKI(t, oidRSA, []byte{4, 0}, spkiDER(t, pub)[24:]), ca.ReasonKeyMalformed},
		{"parameters NULL with content", rawSPKI(t, oidRSA, []byte{5, 1, 0}, spkiDER(t, pub)[24:]), ca.ReasonKeyMalformed},
		{"parameters twice", rawSPKI(t, oidRSA, []byte{5, 0, 5, 0}, spkiDER(t, pub)[24:]), ca.ReasonKeyMalformed},
		{"trailing data in key", rawSPKI(t, oidRSA, derNull, append(bytes.Clone(spkiDER(t, pub)[24:]), 0)), ca.ReasonKeyMalformed},
		{"not a sequence", rawSPKI(t, oidRSA, derNull, []byte{2, 1, 1}), ca.ReasonKeyMalformed},
	} {
		wantKeyRefused(t, "RSA "+c.what, c.der, c.want)
	}
}

// A good key encoded in the same ways is accepted and fails for its signature
// only, so that TestRSAKeyOfUnusualShapeIsRefused tests what it says.
func TestRSAKeyBuiltByHandIsAccepted(t *testing.T) {
	pub := keys()[ca.KeyRSA2048].Public().(*rsa.PublicKey)
	for what, der := range map[string][]byte{
		"encoded from numbers": rawRSA(t, pub.N, big.NewInt(65537)),
		"cut out":              rawSPKI(t, oidRSA, derNull, spkiDER(t, pub)[24:]),
	} {
		wantKeyRefused(t, "RSA "+what, der, ca.ReasonProofInvalid)
	}
}
