package ca

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"testing"
	"time"
)

// goldenDraft is a draft whose every byte is fixed.
func goldenDraft(t *testing.T) *draft {
	t.Helper()
	// The generator of P-256 (FIPS 186-4, D.1.2.3), the public key of the private key 1.
	spki, err := hex.DecodeString("3059301306072a8648ce3d020106082a8648ce3d030107034200" + "04" +
		"6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296" +
		"4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")
	if err != nil {
		t.Fatal(err)
	}
	key, why := parsePublicKey(spki)
	if why != nil {
		t.Fatal(why)
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: "Corp Code Signing CA", Organization: []string{"Corp"}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	algorithm, err := algorithmIdentifier(x509.ECDSAWithSHA384)
	if err != nil {
		t.Fatal(err)
	}
	san, err := URISAN("https://ci.corp.example/job/x")
	if err != nil {
		t.Fatal(err)
	}
	extensions, err := fulcioExtensions([]Extension{{2, "push"}, {12, "https://git.corp.example/x"}}, testIdentity())
	if err != nil {
		t.Fatal(err)
	}
	d := &draft{
		chain: &Chain{
			certificates:       []*x509.Certificate{{RawSubject: subject, SubjectKeyId: []byte("twenty octets of ski")}},
			signatureAlgorithm: algorithm,
		},
		notBefore: time.Unix(1795339785, 0), notAfter: time.Unix(1795340385, 0), logged: true,
		key: ProvenKey{clientKey: key, proof: ProofSignature}, san: san, extensions: extensions,
	}
	copy(d.serial[:], "twenty octets serial")
	return d
}

// What Fulcio does not have is absent unless asked for: certificates are, byte
// for byte, what they were before there was anything to ask for.
func TestCertificatesKeepTheirBytes(t *testing.T) {
	encoded, err := goldenDraft(t).encode()
	if err != nil {
		t.Fatal(err)
	}
	pre := precertificate(encoded)
	const want = "541972af392cb556169c5bae81b8fdfd40e4220639300949d6de8be66529406a"
	if got := sha256.Sum256(pre); hex.EncodeToString(got[:]) != want {
		t.Errorf("SHA-256 of the to-be-signed bytes is %x, want %s\n%x", got, want, pre)
	}
}
