package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	commonv1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustrootv1 "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
)

// check reports every reason why clients could not use files made from in.
func (in Input) check() error {
	errs := []error{checkURL("public URL", in.PublicURL)}
	if strings.Contains(in.Operator, "://") || strings.ContainsAny(in.Operator, " \t\r\n") {
		errs = append(errs, fmt.Errorf("operator %q is not a URI without scheme", in.Operator))
	}
	if len(in.Chains) == 0 {
		errs = append(errs, errors.New("no chain"))
	}
	for i, c := range in.Chains {
		err := checkChain(c.Certificates)
		if err == nil {
			err = checkSpan(c.start(), c.End)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("chain %d: %w", i, err))
		}
	}
	known := make(map[[32]byte]int)
	for i, l := range in.Logs {
		id := sha256.Sum256(l.PublicKeyDER)
		if err := errors.Join(checkURL("URL", l.URL), checkLogKey(l.PublicKeyDER), checkSpan(l.Start, l.End)); err != nil {
			errs = append(errs, fmt.Errorf("log %d: %w", i, err))
		} else if first, again := known[id]; again {
			// Clients keep logs by id and would silently forget one of the two.
			errs = append(errs, fmt.Errorf("log %d has the key of log %d", i, first))
		} else {
			known[id] = i
		}
	}
	for i, t := range in.TSAs {
		err := errors.Join(checkURL("URL", t.URL), checkTSA(t.Certificates))
		if err == nil {
			err = checkSpan(t.start(), t.End)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("timestamp authority %d: %w", i, err))
		}
	}
	for i, issuer := range in.Issuers {
		if err := checkURL("URL", issuer.URL); err != nil {
			errs = append(errs, fmt.Errorf("issuer %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

func checkURL(what, raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return fmt.Errorf("%s %q is not an http or https URL", what, raw)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#"):
		return fmt.Errorf("%s %q has more than host and path", what, u.Redacted())
	}
	return nil
}

func checkSpan(start, end time.Time) error {
	if !end.IsZero() && !end.After(start) {
		return fmt.Errorf("ends at %v, not after its start at %v", end, start)
	}
	return nil
}

// checkChain demands CA certificates from the issuing one to a self-signed root:
// clients take the last for the root, whatever it is.
func checkChain(certs []*x509.Certificate) error {
	if err := checkLinks(certs); err != nil {
		return err
	}
	for i, cert := range certs {
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return fmt.Errorf("certificate %d (%s) is not a CA", i, cert.Subject)
		}
	}
	root := certs[len(certs)-1]
	if !bytes.Equal(root.RawIssuer, root.RawSubject) {
		return fmt.Errorf("last certificate is not a self-signed root: it was issued by %q", root.Issuer)
	}
	switch root.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		// crypto/x509 verifies no such signature, and that of a root proves nothing:
		// package ca has looked at it, and verifiers do not.
		return nil
	}
	if err := checkLinks([]*x509.Certificate{root, root}); err != nil {
		return fmt.Errorf("last certificate is not a self-signed root: %w", err)
	}
	return nil
}

// checkTSA demands a signing certificate and at least the one that it hangs
// from: npm's client looks for the former in the file and not in the timestamp,
// and sigstore-go takes a last certificate that is no CA for no root at all.
func checkTSA(certs []*x509.Certificate) error {
	if err := checkLinks(certs); err != nil {
		return err
	}
	if len(certs) < 2 || certs[0].IsCA || !slices.Contains(certs[0].ExtKeyUsage, x509.ExtKeyUsageTimeStamping) {
		return errors.New("first certificate does not sign timestamps, or stands alone")
	}
	return nil
}

// checkLinks demands that each certificate is signed by the next.
func checkLinks(certs []*x509.Certificate) error {
	if len(certs) == 0 || slices.Contains(certs, nil) {
		return errors.New("no certificate")
	}
	for i, cert := range certs[:len(certs)-1] {
		next := certs[i+1]
		if !bytes.Equal(cert.RawIssuer, next.RawSubject) {
			return fmt.Errorf("certificate %d was issued by %q, but %q follows", i, cert.Issuer, next.Subject)
		}
		if err := cert.CheckSignatureFrom(next); err != nil {
			return fmt.Errorf("certificate %d (%s) is not signed by the next: %w", i, cert.Subject, err)
		}
	}
	return nil
}

// checkLogKey demands a P-256 key. RFC 6962, Section 2.1.4: "A log MUST use
// either elliptic curve signatures using the NIST P-256 curve or RSA signatures";
// our logs are the former.
func checkLogKey(der []byte) error {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	if key, ok := pub.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return errors.New("public key is not ECDSA P-256, and clients verify no other")
	}
	// The log's id is a hash of this encoding; another one is another log.
	if canonical, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(canonical, der) {
		return errors.New("public key is not in canonical DER")
	}
	return nil
}

// instance describes a log that was checked. Clients refuse a log without the
// start of its validity, so an open one starts with the Unix epoch.
func (l Log) instance() *trustrootv1.TransparencyLogInstance {
	start := l.Start
	if start.IsZero() {
		start = time.Unix(0, 0)
	}
	// RFC 6962, Section 3.2: "the SHA-256 hash of the log's public key,
	// calculated over the DER encoding of the key represented as
	// SubjectPublicKeyInfo".
	id := sha256.Sum256(l.PublicKeyDER)
	return &trustrootv1.TransparencyLogInstance{
		BaseUrl:       l.URL,
		HashAlgorithm: commonv1.HashAlgorithm_SHA2_256,
		PublicKey: &commonv1.PublicKey{
			RawBytes:   l.PublicKeyDER,
			KeyDetails: commonv1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
			ValidFor:   span(start, l.End),
		},
		LogId: &commonv1.LogId{KeyId: id[:]},
	}
}
