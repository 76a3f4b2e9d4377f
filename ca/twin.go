package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// twin is a chain like another, subjects, validity and every extension byte for
// byte, with keys of its own that were made for it and never leave it. What it
// signs tells what verifiers will say about a certificate before the CA key has
// signed anything (RFC 5280, Section 6.1, by way of crypto/x509).
type twin struct {
	chain                *Chain
	roots, intermediates *x509.CertPool
}

// twinKey signs for a twin.
type twinKey struct{ *ecdsa.PrivateKey }

func (k twinKey) Public() crypto.PublicKey { return k.PrivateKey.Public() }

func (k twinKey) Sign(_ context.Context, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, k.PrivateKey, digest)
}

func (k twinKey) Ready() error { return nil }

// newTwin makes the twin of a path. It takes about 0.1 ms a certificate.
func newTwin(certs []*x509.Certificate) (*twin, error) {
	t := &twin{roots: x509.NewCertPool(), intermediates: x509.NewCertPool()}
	twins := make([]*x509.Certificate, len(certs))
	var key, parentKey *ecdsa.PrivateKey
	for i := len(certs) - 1; i >= 0; i-- {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("making a throw-away key: %w", err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), RawSubject: certs[i].RawSubject,
			NotBefore: certs[i].NotBefore, NotAfter: certs[i].NotAfter, ExtraExtensions: certs[i].Extensions,
		}
		parent := template
		if parentKey == nil {
			parentKey = key
		} else {
			parent = twins[i+1]
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			return nil, fmt.Errorf("making the twin of certificate %d: %w", i+1, err)
		}
		if twins[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("parsing the twin of certificate %d: %w", i+1, err)
		}
		parentKey = key
	}
	t.roots.AddCert(twins[len(twins)-1])
	for _, c := range twins[:len(twins)-1] {
		t.intermediates.AddCert(c)
	}
	t.chain = &Chain{name: "throw-away twin", certificates: twins, signer: twinKey{key}}
	return t, t.chain.complete()
}

// issue returns the certificate that d describes, as the twin makes it. It has
// neither poison nor SCT.
func (t *twin) issue(d *draft) (*x509.Certificate, error) {
	copied := *d
	copied.chain, copied.logged = t.chain, false
	encoded, err := copied.encode()
	if err != nil {
		return nil, err
	}
	tbsDER := encoded.with(nil)
	digest := sha256.Sum256(tbsDER)
	signature, err := t.chain.signer.Sign(context.Background(), digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing with a throw-away key: %w", err)
	}
	cert, err := x509.ParseCertificate(certificate(tbsDER, t.chain.signatureAlgorithm, signature))
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate: %w", err)
	}
	return cert, nil
}

// verify says what a verifier would say about the certificate that d describes.
// A name that the chain does not permit is a refusal of its own.
func (t *twin) verify(d *draft) error {
	cert, err := t.issue(d)
	if err != nil {
		return err
	}
	if d.san.kind == SANUsername {
		// crypto/x509 knows no otherName and leaves a critical SAN that holds
		// nothing else to the caller. Sigstore's verifiers read the name
		// themselves and take the extension off this list, as here.
		cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSAN.Equal)
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: t.intermediates, CurrentTime: d.notBefore,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err == nil {
		err = permitted(t.chain.certificates, d.san)
	} else if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || invalid.Reason != x509.CANotAuthorizedForThisName {
		return err
	}
	if err != nil {
		return Refuse(KindDenied, ReasonNameNotPermitted, "the chain's name constraints do not permit %s %q: %w", d.san.kind, d.san.value, err)
	}
	return nil
}

// rehearsalIdentity is nobody: RFC 2606, Section 2, keeps .invalid for names that
// never exist.
func rehearsalIdentity() Identity {
	return Identity{Issuer: "https://rehearsal.invalid", Subject: "rehearsal"}
}

// rehearsalKey proves possession of a key that is forgotten at once.
func rehearsalKey() (ProvenKey, error) {
	id := rehearsalIdentity()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return ProvenKey{}, fmt.Errorf("making a throw-away key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return ProvenKey{}, fmt.Errorf("encoding a throw-away key: %w", err)
	}
	digest := sha256.Sum256([]byte(id.Subject))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return ProvenKey{}, fmt.Errorf("signing with a throw-away key: %w", err)
	}
	return ProveSignature(spki, signature, id)
}

// rehearse makes the certificate of a profile that a caller of that kind of name
// would get, and has it verified. When constraints rule out every name that
// could be thought of, the refusal says so.
func (t *twin) rehearse(p Profile, kind SANKind, at time.Time) (*x509.Certificate, error) {
	key, err := rehearsalKey()
	if err != nil {
		return nil, err
	}
	var extensions []Extension
	for n := extIssuerRaw + 1; n < extTokenSubject; n++ {
		if n != extOtherName && n != extIssuer {
			extensions = append(extensions, Extension{n, "https://rehearsal.invalid/" + strings.Repeat("x", 24)})
		}
	}
	if extensions, err = fulcioExtensions(extensions, rehearsalIdentity()); err != nil {
		return nil, err
	}
	notBefore, notAfter, err := p.validity(t.moment(at, p), t.chain)
	if err != nil {
		return nil, err
	}
	var refused error
	for _, san := range t.names(kind) {
		d := &draft{
			serial: newSerial(), chain: t.chain, notBefore: notBefore, notAfter: notAfter,
			key: key, san: san, extensions: extensions, policies: p.Policies, noRevAvail: p.NoRevAvail,
		}
		if refused = t.verify(d); refused == nil {
			return t.issue(d)
		}
	}
	return nil, refused
}

// moment moves at into the time in which the chain can issue.
func (t *twin) moment(at time.Time, p Profile) time.Time {
	if last := t.chain.notAfter.Add(-p.Lifetime); at.After(last) {
		at = last
	}
	if at.Before(t.chain.notBefore) {
		at = t.chain.notBefore
	}
	return at
}

// names returns names of a kind, those that the chain's constraints permit
// among them if any such can be thought of.
func (t *twin) names(kind SANKind) []SAN {
	var names []SAN
	try := func(san SAN, err error) {
		if err == nil {
			names = append(names, san)
		}
	}
	switch kind {
	case SANEmail:
		try(EmailSAN("rehearsal@rehearsal.invalid"))
	case SANURI:
		try(URISAN("https://rehearsal.invalid/rehearsal"))
	case SANUsername:
		try(UsernameSAN("rehearsal", "rehearsal.invalid"))
	}
	for _, c := range t.chain.certificates {
		if kind == SANEmail {
			for _, permitted := range c.PermittedEmailAddresses {
				try(emailUnder(strings.ToLower(permitted)))
			}
		}
		if kind == SANURI {
			for _, permitted := range c.PermittedURIDomains {
				try(URISAN("https://" + hostUnder(strings.ToLower(permitted)) + "/rehearsal"))
			}
		}
	}
	return names
}

func emailUnder(permitted string) (SAN, error) {
	if strings.Contains(permitted, "@") {
		return EmailSAN(permitted)
	}
	return EmailSAN("rehearsal@" + hostUnder(permitted))
}

// hostUnder follows RFC 5280, Section 4.2.1.10: "When the constraint begins with
// a period, it MAY be expanded with one or more labels."
func hostUnder(permitted string) string {
	if strings.HasPrefix(permitted, ".") {
		return "rehearsal" + permitted
	}
	return permitted
}
