package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"sync"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
)

// keys are one private key of each kind. They are made once, because RSA 4096
// takes its time.
var keys = sync.OnceValue(func() map[ca.KeyKind]crypto.Signer {
	must := func(k crypto.Signer, err error) crypto.Signer {
		if err != nil {
			panic(err)
		}
		return k
	}
	ec := func(c elliptic.Curve) crypto.Signer { k, err := ecdsa.GenerateKey(c, rand.Reader); return must(k, err) }
	rs := func(bits int) crypto.Signer { k, err := rsa.GenerateKey(rand.Reader, bits); return must(k, err) }
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	return map[ca.KeyKind]crypto.Signer{
		ca.KeyECDSAP256: ec(elliptic.P256()), ca.KeyECDSAP384: ec(elliptic.P384()), ca.KeyECDSAP521: ec(elliptic.P521()),
		ca.KeyRSA2048: rs(2048), ca.KeyRSA3072: rs(3072), ca.KeyRSA4096: rs(4096), ca.KeyEd25519: must(ed, err),
	}
})

// goodHash is the hash that stock clients use with each kind of key.
var goodHash = map[ca.KeyKind]crypto.Hash{
	ca.KeyECDSAP256: crypto.SHA256, ca.KeyECDSAP384: crypto.SHA384, ca.KeyECDSAP521: crypto.SHA512,
	ca.KeyRSA2048: crypto.SHA256, ca.KeyRSA3072: crypto.SHA256, ca.KeyRSA4096: crypto.SHA256,
}

var jane = ca.Identity{Subject: "248289761001", Email: "jane@corp.example", EmailVerified: true}

func sign(t testing.TB, key crypto.Signer, opts crypto.SignerOpts, message string) []byte {
	t.Helper()
	digest := []byte(message)
	if h := opts.HashFunc(); h != 0 {
		d := h.New()
		d.Write(digest)
		digest = d.Sum(nil)
	}
	sig, err := key.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func spkiDER(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pemOf(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

// wantRefusal fails unless err refuses the request as invalid for the reason.
func wantRefusal(t testing.TB, what string, got ca.ProvenKey, err error, want ca.Reason) {
	t.Helper()
	refusal, ok := errors.AsType[*ca.Refusal](err)
	if !ok || refusal.Reason != want || refusal.Kind != ca.KindInvalid {
		t.Errorf("%s: got error %v, want refusal %s", what, err, want)
	}
	if !got.IsZero() || got.Public() != nil || len(got.SPKI()) != 0 {
		t.Errorf("%s: got a key beside the refusal: %v", what, got.Public())
	}
}

// wantProven fails unless k is exactly the public key, proven that way.
func wantProven(t testing.TB, what string, k ca.ProvenKey, err error, pub crypto.PublicKey, kind ca.KeyKind, proof string) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: got error %v, want key", what, err)
		return
	}
	if !pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public()) {
		t.Errorf("%s: got key %v, want %v", what, k.Public(), pub)
	}
	if k.IsZero() || k.Kind() != kind || k.Proof() != proof {
		t.Errorf("%s: got zero %v, kind %s, proof %s, want %s by %s", what, k.IsZero(), k.Kind(), k.Proof(), kind, proof)
	}
	der := spkiDER(t, pub)
	if !bytes.Equal(k.SPKI(), der) || k.SPKIHash() != sha256.Sum256(der) {
		t.Errorf("%s: got SPKI %x, want %x", what, k.SPKI(), der)
	}
	var info struct {
		Algorithm asn1.RawValue
		Bits      asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		t.Fatal(err)
	}
	if want := sha1.Sum(info.Bits.Bytes); !bytes.Equal(k.KeyID(), want[:]) {
		t.Errorf("%s: got key id %x, want %x", what, k.KeyID(), want)
	}
}

func TestZeroProvenKeyProvesNothing(t *testing.T) {
	if k := (ca.ProvenKey{}); !k.IsZero() {
		t.Error("the zero ProvenKey says it was proven")
	}
}

func TestProvenKeyCannotBeChangedThroughItsSPKI(t *testing.T) {
	key := keys()[ca.KeyECDSAP256]
	in := spkiDER(t, key.Public())
	k, err := ca.ProveSignature(in, sign(t, key, crypto.SHA256, jane.Subject), jane)
	clear(in)
	clear(k.SPKI())
	wantProven(t, "after clearing input and SPKI", k, err, key.Public(), ca.KeyECDSAP256, ca.ProofSignature)
}

func TestProveSignatureAcceptsEveryKindAsClientsSendIt(t *testing.T) {
	for kind, key := range keys() {
		for form, in := range keyForms(spkiDER(t, key.Public())) {
			for _, message := range []string{jane.Email, jane.Subject} {
				k, err := ca.ProveSignature(in, sign(t, key, goodHash[kind], message), jane)
				wantProven(t, string(kind)+" as "+form+" over "+message, k, err, key.Public(), kind, ca.ProofSignature)
			}
		}
	}
}

func TestProveSignatureRefusesOtherHashes(t *testing.T) {
	for kind, key := range keys() {
		pub := spkiDER(t, key.Public())
		opts := []crypto.SignerOpts{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}
		switch key.(type) {
		case *rsa.PrivateKey:
			opts = append(opts, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
		case ed25519.PrivateKey:
			opts = []crypto.SignerOpts{&ed25519.Options{Hash: crypto.SHA512}, &ed25519.Options{Context: "sigstore"}}
		}
		for _, o := range opts {
			if o == goodHash[kind] {
				continue
			}
			k, err := ca.ProveSignature(pub, sign(t, key, o, jane.Subject), jane)
			wantRefusal(t, string(kind)+" signing with "+o.HashFunc().String(), k, err, ca.ReasonProofInvalid)
		}
	}
}

func TestProveSignatureRefusesProofsOfOtherThings(t *testing.T) {
	for _, kind := range []ca.KeyKind{ca.KeyECDSAP256, ca.KeyRSA2048, ca.KeyEd25519} {
		key := keys()[kind]
		pub, good := spkiDER(t, key.Public()), sign(t, key, goodHash[kind], jane.Email)
		flipped := bytes.Clone(good)
		flipped[len(flipped)/2] ^= 1

		unverified, noEmail, nobody := jane, jane, jane
		unverified.EmailVerified = false
		noEmail.Email = ""
		nobody.Email, nobody.Subject = "", ""
		over := func(message string) []byte { return sign(t, key, goodHash[kind], message) }
		for _, c := range []struct {
			what string
			sig  []byte
			id   ca.Identity
		}{
			{"no signature", nil, jane},
			{"empty signature", []byte{}, jane},
			{"flipped bit", flipped, jane},
			{"truncated", good[:len(good)-1], jane},
			{"trailing byte", append(bytes.Clone(good), 0), jane},
			{"oversized", bytes.Repeat([]byte{0x30}, 17<<10), jane},
			{"other case", over("Jane@corp.example"), jane},
			{"trailing newline", over(jane.Email + "\n"), jane},
			{"empty message", over(""), jane},
			{"empty message, no email", over(""), noEmail},
			{"empty message, no identity", over(""), nobody},
			{"issuer", over("https://idp.corp.example"), jane},
			{"unverified email", good, unverified},
			{"absent email", good, noEmail},
		} {
			k, err := ca.ProveSignature(pub, c.sig, c.id)
			wantRefusal(t, string(kind)+", "+c.what, k, err, ca.ReasonProofInvalid)
		}
	}
}

func TestProveSignatureRefusesOtherKeysSignature(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ca.ProveSignature(spkiDER(t, keys()[ca.KeyECDSAP256].Public()), sign(t, other, crypto.SHA256, jane.Subject), jane)
	wantRefusal(t, "signature of another key", k, err, ca.ReasonProofInvalid)
}

// An unverified email that is also the subject is signed as the subject.
func TestProveSignatureAcceptsSubjectThatLooksLikeTheEmail(t *testing.T) {
	key := keys()[ca.KeyECDSAP256]
	for _, verified := range []bool{true, false} {
		id := ca.Identity{Subject: "jane@corp.example", Email: "jane@corp.example", EmailVerified: verified}
		k, err := ca.ProveSignature(spkiDER(t, key.Public()), sign(t, key, crypto.SHA256, id.Subject), id)
		wantProven(t, "subject equal to email", k, err, key.Public(), ca.KeyECDSAP256, ca.ProofSignature)
	}
}
