package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
)

// csrAlgorithm is a signature algorithm as a request names and uses it.
type csrAlgorithm struct {
	name   string
	oid    asn1.ObjectIdentifier
	params asn1.RawValue
	opts   crypto.SignerOpts
}

var (
	null   = asn1.NullRawValue
	absent = asn1.RawValue{}
	pss    = asn1.RawValue{FullBytes: []byte{0x30, 0}}

	ecdsaAlgorithms = []csrAlgorithm{
		{"ecdsa-with-SHA1", asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}, absent, crypto.SHA1},
		{"ecdsa-with-SHA256", asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, absent, crypto.SHA256},
		{"ecdsa-with-SHA384", asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, absent, crypto.SHA384},
		{"ecdsa-with-SHA512", asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, absent, crypto.SHA512},
		{"ecdsa-with-SHA256, NULL", asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, null, crypto.SHA256},
		{"sha256WithRSA by name only", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, null, crypto.SHA256},
	}
	rsaAlgorithms = []csrAlgorithm{
		{"md5WithRSA", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, null, crypto.MD5},
		{"sha1WithRSA", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, null, crypto.SHA1},
		{"sha256WithRSA", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, null, crypto.SHA256},
		{"sha256WithRSA, absent", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, absent, crypto.SHA256},
		{"sha256WithRSA, odd parameters", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, pss, crypto.SHA256},
		{"sha384WithRSA", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, null, crypto.SHA384},
		{"sha512WithRSA", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, null, crypto.SHA512},
		{"RSASSA-PSS", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, pss,
			&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}},
	}
	ed25519Algorithms = []csrAlgorithm{
		{"Ed25519", asn1.ObjectIdentifier{1, 3, 101, 112}, absent, crypto.Hash(0)},
		{"Ed25519, NULL", asn1.ObjectIdentifier{1, 3, 101, 112}, null, crypto.Hash(0)},
		{"Ed448 by name only", asn1.ObjectIdentifier{1, 3, 101, 113}, absent, crypto.Hash(0)},
	}
)

// csrAllowed are the pairs that fulcio accepts by default.
var csrAllowed = map[ca.KeyKind][]string{
	ca.KeyECDSAP256: {"ecdsa-with-SHA256"},
	ca.KeyECDSAP384: {"ecdsa-with-SHA384"},
	ca.KeyECDSAP521: {"ecdsa-with-SHA512"},
	ca.KeyRSA2048:   {"sha256WithRSA", "sha256WithRSA, absent"},
	ca.KeyRSA3072:   {"sha256WithRSA", "sha256WithRSA, absent"},
	ca.KeyRSA4096:   {"sha256WithRSA", "sha256WithRSA, absent"},
	ca.KeyEd25519:   {"Ed25519"},
}

type csrInfo struct {
	Version    int
	Subject    asn1.RawValue
	SPKI       asn1.RawValue
	Attributes asn1.RawValue
}

// makeCSR encodes a request for whatever key and algorithm it is told, which
// x509.CreateCertificateRequest would refuse to do.
func makeCSR(t testing.TB, key crypto.Signer, alg csrAlgorithm, change func(*csrInfo)) []byte {
	t.Helper()
	info := csrInfo{
		Subject:    asn1.RawValue{FullBytes: []byte{0x30, 0}},
		SPKI:       asn1.RawValue{FullBytes: spkiDER(t, key.Public())},
		Attributes: asn1.RawValue{FullBytes: []byte{0xa0, 0}},
	}
	if change != nil {
		change(&info)
	}
	signed, err := asn1.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	sig := sign(t, key, alg.opts, string(signed))
	der, err := asn1.Marshal(struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: signed},
		pkix.AlgorithmIdentifier{Algorithm: alg.oid, Parameters: alg.params},
		asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE REQUEST", der)
}

func TestProveCSRHoldsKeyAndHashToTheList(t *testing.T) {
	for kind, key := range keys() {
		algorithms := ecdsaAlgorithms
		switch key.(type) {
		case *rsa.PrivateKey:
			algorithms = rsaAlgorithms
		case ed25519.PrivateKey:
			algorithms = ed25519Algorithms
		}
		for _, alg := range algorithms {
			what := string(kind) + " with " + alg.name
			k, err := ca.ProveCSR(makeCSR(t, key, alg, nil))
			if strings.Contains(strings.Join(csrAllowed[kind], "|")+"|", alg.name+"|") {
				wantProven(t, what, k, err, key.Public(), kind, ca.ProofCSR)
			} else {
				wantRefusal(t, what, k, err, ca.ReasonCSRAlgorithm)
			}
		}
	}
}

func TestProveCSRAcceptsOtherProgramsRequests(t *testing.T) {
	files, err := filepath.Glob("testdata/keys/*.csr")
	if err != nil || len(files) == 0 {
		t.Fatalf("no requests in testdata: %v", err)
	}
	for _, file := range files {
		csr, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(strings.TrimSuffix(file, ".csr") + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		_, kind, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".csr"), "-")
		want := map[string]ca.KeyKind{"p256": ca.KeyECDSAP256, "p384": ca.KeyECDSAP384, "rsa3072": ca.KeyRSA3072, "ed25519": ca.KeyEd25519}[kind]
		k, err := ca.ProveCSR(csr)
		wantProven(t, file, k, err, pub, want, ca.ProofCSR)
	}
}

// A client that asks for names, powers and purposes gets the key it proved and
// no more: what it asked for leaves no trace in the only thing that goes on.
func TestProveCSRTakesOnlyTheKey(t *testing.T) {
	for kind, key := range keys() {
		if kind == ca.KeyRSA2048 || kind == ca.KeyRSA3072 || kind == ca.KeyRSA4096 {
			continue // the frame is the same, the signatures slow
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			Subject:        pkix.Name{CommonName: "root", Organization: []string{"Other Corp"}},
			DNSNames:       []string{"*.corp.example"},
			EmailAddresses: []string{"ceo@corp.example"},
			ExtraExtensions: []pkix.Extension{
				{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}},                          // CA:TRUE
				{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 0x0a, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1}},                  // serverAuth
				{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: append([]byte{0x0c, 20}, "https://evil.example"...)}, // issuer
				{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: []byte{5, 0}},                     // CT poison
			},
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		greedy, err := ca.ProveCSR(pemOf("CERTIFICATE REQUEST", der))
		wantProven(t, string(kind)+", greedy request", greedy, err, key.Public(), kind, ca.ProofCSR)
	}
}

func TestProveCSRIgnoresAttributesThatDoNotParse(t *testing.T) {
	key := keys()[ca.KeyECDSAP256]
	csr := makeCSR(t, key, ecdsaAlgorithms[1], func(i *csrInfo) { i.Attributes.FullBytes = []byte{0xa0, 3, 4, 1, 'x'} })
	k, err := ca.ProveCSR(csr)
	wantProven(t, "junk attributes", k, err, key.Public(), ca.KeyECDSAP256, ca.ProofCSR)
}

func TestProveCSRRefusesTamperedRequests(t *testing.T) {
	for _, kind := range []ca.KeyKind{ca.KeyECDSAP256, ca.KeyRSA2048, ca.KeyEd25519} {
		key := keys()[kind]
		alg := map[ca.KeyKind]csrAlgorithm{
			ca.KeyECDSAP256: ecdsaAlgorithms[1], ca.KeyRSA2048: rsaAlgorithms[2], ca.KeyEd25519: ed25519Algorithms[0],
		}[kind]
		block, _ := pem.Decode(makeCSR(t, key, alg, func(i *csrInfo) {
			i.Attributes.FullBytes = append([]byte{0xa0, 0x20, 0x04, 0x1e}, bytes.Repeat([]byte{'x'}, 0x1e)...)
		}))
		der := block.Bytes

		signature := bytes.Clone(der)
		signature[len(signature)-1] ^= 1
		k, err := ca.ProveCSR(pemOf("CERTIFICATE REQUEST", signature))
		wantRefusal(t, string(kind)+", signature changed", k, err, ca.ReasonCSRSignature)

		attributes := bytes.Replace(der, []byte("xxxx"), []byte("xyxx"), 1)
		k, err = ca.ProveCSR(pemOf("CERTIFICATE REQUEST", attributes))
		wantRefusal(t, string(kind)+", attributes changed", k, err, ca.ReasonCSRSignature)
	}
	// The key of someone else in a request that we signed.
	other := spkiDER(t, keys()[ca.KeyEd25519].Public())
	victim, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := makeCSR(t, keys()[ca.KeyEd25519], ed25519Algorithms[0], func(i *csrInfo) {
		i.SPKI.FullBytes = append(bytes.Clone(other[:12]), victim...)
	})
	k, err := ca.ProveCSR(csr)
	wantRefusal(t, "someone else's key", k, err, ca.ReasonCSRSignature)
}

func TestProveCSRRefusesMalformedRequests(t *testing.T) {
	key := keys()[ca.KeyECDSAP256]
	alg := ecdsaAlgorithms[1]
	good := makeCSR(t, key, alg, nil)
	block, _ := pem.Decode(good)
	changed := func(change func(*csrInfo)) []byte { return makeCSR(t, key, alg, change) }
	for _, c := range []struct {
		what string
		csr  []byte
		want ca.Reason
	}{
		{"nothing", nil, ca.ReasonCSRMalformed},
		{"white space", []byte(" \n"), ca.ReasonCSRMalformed},
		{"DER", block.Bytes, ca.ReasonCSRMalformed},
		{"certificate", pemOf("CERTIFICATE", block.Bytes), ca.ReasonCSRMalformed},
		{"two requests", append(bytes.Clone(good), good...), ca.ReasonCSRMalformed},
		{"text before", append([]byte("hello\n"), good...), ca.ReasonCSRMalformed},
		{"text after", append(bytes.Clone(good), "hello\n"...), ca.ReasonCSRMalformed},
		{"PEM headers", bytes.Replace(good, []byte("\n"), []byte("\nA: b\n\n"), 1), ca.ReasonCSRMalformed},
		{"oversized", append(bytes.Repeat([]byte(" "), 16<<10), good...), ca.ReasonCSRMalformed},
		{"trailing DER", pemOf("CERTIFICATE REQUEST", append(bytes.Clone(block.Bytes), 5, 0)), ca.ReasonCSRMalformed},
		{"truncated DER", pemOf("CERTIFICATE REQUEST", block.Bytes[:len(block.Bytes)-1]), ca.ReasonCSRMalformed},
		{"empty DER", pemOf("CERTIFICATE REQUEST", nil), ca.ReasonCSRMalformed},
		{"public key only", pemOf("CERTIFICATE REQUEST", spkiDER(t, key.Public())), ca.ReasonCSRMalformed},
		{"version 2", changed(func(i *csrInfo) { i.Version = 2 }), ca.ReasonCSRMalformed},
		{"subject is no name", changed(func(i *csrInfo) { i.Subject.FullBytes = []byte{5, 0} }), ca.ReasonCSRMalformed},
		{"attributes of wrong tag", changed(func(i *csrInfo) { i.Attributes.FullBytes = []byte{0xa1, 0} }), ca.ReasonCSRMalformed},
		{"field too many", changed(func(i *csrInfo) { i.Attributes.FullBytes = []byte{0xa0, 0, 5, 0} }), ca.ReasonCSRMalformed},
		{"key malformed", changed(func(i *csrInfo) { i.SPKI.FullBytes = []byte{0x30, 0} }), ca.ReasonCSRMalformed},
		{"key weak", weakRSACSR(t), ca.ReasonKeyWeak},
	} {
		k, err := ca.ProveCSR(c.csr)
		wantRefusal(t, c.what, k, err, c.want)
	}
}

// weakRSACSR is a request with a modulus of 1024 bits, and a signature by
// another key: the weak key is what it is refused for, before it is used.
func weakRSACSR(t testing.TB) []byte {
	t.Helper()
	n := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	return makeCSR(t, keys()[ca.KeyRSA2048], rsaAlgorithms[1], func(i *csrInfo) {
		i.SPKI.FullBytes = spkiDER(t, &rsa.PublicKey{N: n, E: 65537})
	})
}

// FuzzProveCSR holds our reader of requests to crypto/x509: it never panics, and
// whatever it accepts is a valid request for that key there too.
func FuzzProveCSR(f *testing.F) {
	files, err := filepath.Glob("testdata/keys/*.csr")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		csr, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(csr)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		k, err := ca.ProveCSR(in)
		if err != nil {
			if r, ok := errors.AsType[*ca.Refusal](err); !ok || r.Kind != ca.KindInvalid || !k.IsZero() {
				t.Fatalf("ProveCSR(%q) = %v, %v, want no key and a refusal", in, k, err)
			}
			return
		}
		pub, err := x509.ParsePKIXPublicKey(k.SPKI())
		if err != nil || !pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public()) {
			t.Fatalf("ProveCSR(%q): SPKI %x reads as %v, %v, want %v", in, k.SPKI(), pub, err, k.Public())
		}
		block, _ := pem.Decode(in)
		req, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return // subject or attributes, which we do not decode
		}
		if err := req.CheckSignature(); err != nil || !bytes.Equal(req.RawSubjectPublicKeyInfo, k.SPKI()) {
			t.Fatalf("ProveCSR(%q) accepts key %x, crypto/x509 has %x, %v", in, k.SPKI(), req.RawSubjectPublicKeyInfo, err)
		}
	})
}
