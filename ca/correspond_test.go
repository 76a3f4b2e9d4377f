package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
)

// correspondByX509 is the comparison as crypto/x509 sees the two: what its parser
// does not tell apart, it does not find.
func correspondByX509(precertTBS, finalTBS, algorithm []byte) error {
	pre, err := parseTBS(precertTBS, algorithm)
	if err != nil {
		return err
	}
	final, err := parseTBS(finalTBS, algorithm)
	if err != nil {
		return err
	}
	last := len(pre.Extensions) - 1
	if last != len(final.Extensions)-1 || last < 0 {
		return errors.New("they differ in the number of extensions")
	}
	if !pre.Extensions[last].Id.Equal(oidPoison) || !final.Extensions[last].Id.Equal(oidSCTList) {
		return errors.New("the last extensions are not poison and SCT list")
	}
	for i, a := range pre.Extensions[:last] {
		b := final.Extensions[i]
		if !a.Id.Equal(b.Id) || a.Critical != b.Critical || !bytes.Equal(a.Value, b.Value) {
			return errors.New("they differ in an extension")
		}
	}
	if !bytes.Equal(pre.RawIssuer, final.RawIssuer) || !bytes.Equal(pre.RawSubject, final.RawSubject) ||
		!bytes.Equal(pre.RawSubjectPublicKeyInfo, final.RawSubjectPublicKeyInfo) ||
		pre.SerialNumber.Cmp(final.SerialNumber) != 0 || pre.SignatureAlgorithm != final.SignatureAlgorithm ||
		!pre.NotBefore.Equal(final.NotBefore) || !pre.NotAfter.Equal(final.NotAfter) {
		return errors.New("they differ in their fields")
	}
	return nil
}

var testSCT = []byte("an sct of some bytes")

// pair returns a draft and the to-be-signed bytes of its precertificate and
// final certificate.
func pair(t testing.TB) (d *draft, encoded tbs, pre, final []byte) {
	t.Helper()
	a := newTestAuthority(t, nil)
	_, d, encoded, err := a.prepare(t.Context(), testRequest(t, p256(t)))
	if err != nil {
		t.Fatal(err)
	}
	list, err := sctList(testSCT)
	if err != nil {
		t.Fatal(err)
	}
	return d, encoded, precertificate(encoded), encoded.with(list)
}

func TestCorrespondFindsADifference(t *testing.T) {
	d, encoded, pre, final := pair(t)
	if err := correspond(pre, final, testSCT); err != nil {
		t.Fatalf("a corresponding pair is refused: %v", err)
	}
	list, err := sctList(testSCT)
	if err != nil {
		t.Fatal(err)
	}
	moved := *d
	moved.notAfter = moved.notAfter.Add(-1e9)
	other, err := moved.encode()
	if err != nil {
		t.Fatal(err)
	}
	foreign := append([]byte{}, d.extensions[0].Value...)
	unique := tbs{append(append([]byte{}, encoded.fields...), 0x81, 2, 0, 1), encoded.extensions}
	for name, tc := range map[string]struct{ pre, final, sct []byte }{
		"another validity":            {pre, other.with(list), testSCT},
		"still poisoned":              {pre, pre, testSCT},
		"nothing poisoned":            {final, final, testSCT},
		"no last extension":           {pre, encoded.with(nil), testSCT},
		"another SCT":                 {pre, final, []byte("an sct of same bytes")},
		"no SCT":                      {pre, final, nil},
		"critical list":               {pre, encoded.with(appendExtension(nil, derSCTList, true, list[len(list)-26:])), testSCT},
		"two lists":                   {pre, encoded.with(append(append([]byte{}, list...), list...)), testSCT},
		"list and poison":             {pre, encoded.with(append(append([]byte{}, list...), poison...)), testSCT},
		"poison before the list":      {pre, encoded.with(append(append([]byte{}, poison...), list...)), testSCT},
		"poison that is not critical": {encoded.with(appendExtension(nil, derOID(oidPoison), false, derNULL)), final, testSCT},
		"poison of another value":     {encoded.with(appendExtension(nil, derOID(oidPoison), true, []byte{4, 0})), final, testSCT},
		"list of another type":        {pre, encoded.with(appendExtension(nil, derSCTList, false, append([]byte{0x0c, 24, 0, 22, 0, 20}, testSCT...))), testSCT},
		"list with a tail":            {pre, encoded.with(appendExtension(nil, derSCTList, false, append([]byte{4, 24, 0, 22, 0, 20}, append(testSCT, 0)...))), testSCT},
		"unique identifier":           {precertificate(unique), unique.with(list), testSCT},
		"bytes after it":              {pre, append(append([]byte{}, final...), 0), testSCT},
		"nothing":                     {nil, nil, testSCT},
		"no certificates":             {foreign, foreign, testSCT},
	} {
		if correspond(tc.pre, tc.final, tc.sct) == nil {
			t.Errorf("%s passes: %x and %x", name, tc.pre, tc.final)
		}
	}
}

// No bit of the one can be changed without the other.
func TestCorrespondFindsEveryBit(t *testing.T) {
	_, _, pre, final := pair(t)
	for _, der := range [][]byte{pre, final} {
		for i := range len(der) * 8 {
			der[i/8] ^= 1 << (i % 8)
			if correspond(pre, final, testSCT) == nil {
				t.Fatalf("passes with bit %d of byte %d changed: %x and %x", i%8, i/8, pre, final)
			}
			der[i/8] ^= 1 << (i % 8)
		}
	}
}

// What the standard library makes of the same template corresponds, so that
// nothing of it rests on our encoder.
func TestCorrespondTakesAnotherEncodersWork(t *testing.T) {
	d, _, _, _ := pair(t)
	value, err := asn1.Marshal(append([]byte{0, 22, 0, 20}, testSCT...))
	if err != nil {
		t.Fatal(err)
	}
	var made [][]byte
	for _, last := range []pkix.Extension{{Id: oidPoison, Critical: true, Value: asn1.NullBytes}, {Id: oidSCTList, Value: value}} {
		der, err := x509.CreateCertificate(rand.Reader, stdTemplate(t, d, last), d.chain.issuing(), d.key.Public(), d.chain.signer.(*memSigner).Signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, cert.RawTBSCertificate)
	}
	if err := correspond(made[0], made[1], testSCT); err != nil {
		t.Error(err)
	}
}

// FuzzCorrespond: whatever passes, crypto/x509 finds no difference in either, and
// sees the SCT. The same edit is made to both, so that there is much to pass.
func FuzzCorrespond(f *testing.F) {
	d, _, pre, final := pair(f)
	f.Add(pre, final, testSCT, uint16(0), []byte{})
	f.Add(pre, final, testSCT, uint16(40), []byte{0x18, 15})
	f.Add([]byte{0x30, 0}, []byte{0x30, 0}, []byte{}, uint16(0), []byte{})
	algorithm := d.chain.signatureAlgorithm
	f.Fuzz(func(t *testing.T, pre, final, sct []byte, at uint16, edit []byte) {
		for _, der := range [][]byte{pre, final} {
			copy(der[min(int(at), len(der)):], edit)
		}
		if correspond(pre, final, sct) != nil {
			return
		}
		// judge has passed the precertificate before it comes here.
		if _, err := parseTBS(pre, algorithm); err != nil {
			return
		}
		if err := correspondByX509(pre, final, algorithm); err != nil {
			t.Fatalf("%x and %x with the SCT %x pass, and crypto/x509 says: %v", pre, final, sct, err)
		}
		cert, err := parseTBS(final, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		n := len(sct)
		list, err := asn1.Marshal(append([]byte{byte((n + 2) >> 8), byte(n + 2), byte(n >> 8), byte(n)}, sct...))
		if err != nil {
			t.Fatal(err)
		}
		if got := cert.Extensions[len(cert.Extensions)-1]; got.Critical || !bytes.Equal(got.Value, list) {
			t.Fatalf("%x passes with the SCT %x, and has the extension %+v", final, sct, got)
		}
	})
}
