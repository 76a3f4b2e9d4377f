package auditor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Whoever has our key is not bound to sign as we do, nor in a way that crypto/x509
// takes: there are logs and verifiers that take SHA-1.
func TestACertificateIsOursHoweverItWasSigned(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key  crypto.Signer
		oid  asn1.ObjectIdentifier
		opts crypto.SignerOpts
	}{
		"ECDSA with SHA-1":       {curve, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}, crypto.SHA1},
		"ECDSA with SHA-224":     {curve, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 1}, crypto.SHA224},
		"ECDSA with SHA-256":     {curve, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, crypto.SHA256},
		"ECDSA with SHA3-256":    {curve, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 10}, crypto.SHA3_256},
		"RSA with MD5":           {modulus, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, crypto.MD5},
		"RSA with SHA-1":         {modulus, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, crypto.SHA1},
		"RSA with SHA-512":       {modulus, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, crypto.SHA512},
		"RSA-PSS as by default":  {modulus, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, &rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA1}},
		"RSA-PSS with SHA-256":   {modulus, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256}},
		"RSA, as some called it": {modulus, asn1.ObjectIdentifier{1, 3, 14, 3, 2, 29}, crypto.SHA1},
	} {
		t.Run(name, func(t *testing.T) {
			tbs := []byte{0x30, 3, 2, 1, 7}
			h := c.opts.HashFunc().New()
			h.Write(tbs)
			signature, err := c.key.Sign(rand.Reader, h.Sum(nil), c.opts)
			if err != nil {
				t.Fatal(err)
			}
			sign := func(oid asn1.ObjectIdentifier) []byte {
				var b cryptobyte.Builder
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddBytes(tbs)
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid) })
					b.AddASN1BitString(signature)
				})
				return b.BytesOrPanic()
			}
			read, err := readCertificate(sign(c.oid))
			if err != nil {
				t.Fatal(err)
			}
			issuer := &x509.Certificate{PublicKey: c.key.Public()}
			if !read.signedBy(issuer) {
				t.Error("the signature is not recognized")
			}
			signature[len(signature)-1] ^= 1
			if broken, err := readCertificate(sign(c.oid)); err != nil || broken.signedBy(issuer) {
				t.Errorf("a signature that was changed is recognized (%v)", err)
			}
		})
	}
}
