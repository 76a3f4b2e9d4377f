package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // to read old roots' own signatures, on which nothing rests
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// rsaHorizon is until when NIST SP 800-57 Part 1 counts on 2048-bit RSA keys.
var rsaHorizon = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)

// checkLink checks that parent issued child.
func checkLink(child, parent *x509.Certificate) error {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("was issued by %q, not by %q", child.Issuer, parent.Subject)
	}
	if len(child.AuthorityKeyId) > 0 && len(parent.SubjectKeyId) > 0 && !bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId) {
		return errors.New("its authority key identifier is not the issuer's subject key identifier")
	}
	switch child.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		if bytes.Equal(child.Raw, parent.Raw) {
			return checkOldRoot(child)
		}
		return fmt.Errorf("is signed with SHA-1 (%v), which clients refuse; have it signed again with SHA-256", child.SignatureAlgorithm)
	}
	if err := child.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("signature by %q: %w", parent.Subject, err)
	}
	return nil
}

// checkOldRoot verifies the self-signature of a root that was made with SHA-1,
// as many that organizations still use were. crypto/x509 refuses to. It proves
// nothing anyway, for a root is trusted because it was chosen, but it finds
// damage and foreign certificates.
func checkOldRoot(root *x509.Certificate) error {
	digest := sha1.Sum(root.RawTBSCertificate) //nolint:gosec // see above
	ok := false
	switch pub := root.PublicKey.(type) {
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(pub, crypto.SHA1, digest[:], root.Signature) == nil
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(pub, digest[:], root.Signature)
	}
	if !ok {
		return errors.New("its signature is not by its own key")
	}
	return nil
}

// scheme says how an issuing key signs. Clients refuse certificates signed with
// Ed25519 or P-521 keys (sigstore-python), so those are no CA keys here.
func scheme(public crypto.PublicKey) (crypto.Hash, x509.SignatureAlgorithm, error) {
	switch pub := public.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return crypto.SHA256, x509.ECDSAWithSHA256, nil
		case elliptic.P384():
			return crypto.SHA384, x509.ECDSAWithSHA384, nil
		}
		return 0, 0, errors.New("the issuing key is on a curve other than P-256 and P-384, which clients refuse")
	case *rsa.PublicKey:
		if pub.N.BitLen() < minRSAIssuerLen {
			return 0, 0, fmt.Errorf("the issuing RSA key has %d bits, fewer than %d", pub.N.BitLen(), minRSAIssuerLen)
		}
		return crypto.SHA256, x509.SHA256WithRSA, nil
	}
	return 0, 0, fmt.Errorf("the issuing key is of type %T, which clients refuse; use ECDSA P-256, P-384 or RSA", public)
}

func (in *inspection) algorithms() {
	if _, _, err := scheme(in.certs[0].PublicKey); err != nil {
		in.add(CheckAlgorithms, Problem, "%v", err)
	}
	for i, cert := range in.certs {
		switch pub := cert.PublicKey.(type) {
		case *rsa.PublicKey:
			in.rsaKey(i, pub)
		case *ecdsa.PublicKey:
			if i > 0 && pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() {
				in.about(i, CheckAlgorithms, Warning, "has a key on %s; not every client verifies signatures by it", pub.Params().Name)
			}
		case ed25519.PublicKey:
			if i > 0 {
				in.about(i, CheckAlgorithms, Warning, "has an Ed25519 key; not every client verifies signatures by it")
			}
		}
		switch cert.SignatureAlgorithm {
		case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
			if i == len(in.certs)-1 { // elsewhere the path is broken by it
				in.about(i, CheckAlgorithms, Note, "is signed with SHA-1 by itself. That is no weakness in a root, whose signature proves nothing, but some programs complain")
			}
		case x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
			in.about(i, CheckAlgorithms, Warning, "is signed with RSASSA-PSS, which some clients do not verify; PKCS #1 v1.5 is read by all")
		}
	}
}

func (in *inspection) rsaKey(i int, pub *rsa.PublicKey) {
	switch bits := pub.N.BitLen(); {
	case bits < minRSAIssuerLen && i > 0: // of the first, scheme has said it
		in.about(i, CheckAlgorithms, Problem, "its RSA key has %d bits, fewer than %d", bits, minRSAIssuerLen)
	case bits >= minRSAIssuerLen && bits < 3072 && in.certs[i].NotAfter.After(rsaHorizon):
		in.about(i, CheckAlgorithms, Note, "its RSA key has %d bits and is to last beyond 2030, for which NIST counts on 3072 and more", bits)
	}
}

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
