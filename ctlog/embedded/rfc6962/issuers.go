package rfc6962

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Issuers are the issuing certificates whose certificates a log takes. It is
// immutable but for its memory of verified paths: when the list changes, another
// one takes its place.
type Issuers struct {
	listed []*x509.Certificate
	// above has, for each certificate of the lists, itself and what stands above
	// it, by the SHA-256 of its DER.
	above map[fingerprint][]*x509.Certificate
	// suffixes are each list from each of its certificates on, in their order.
	suffixes [][]*x509.Certificate
	// tops are the last certificates of the lists, in DER.
	tops [][]byte
	// paths are verified paths, by the submitted certificates above the entry.
	paths *lru.Cache[fingerprint, *path]
	// verified counts the paths that were not in paths.
	verified atomic.Uint64
}

type fingerprint = [sha256.Size]byte

// maxPaths bounds the memory of verified paths; a CA has a handful.
const maxPaths = 256

// path is verified: each certificate signed the one before it.
type path struct {
	certs []*x509.Certificate // the issuing certificate first
	raw   [][]byte
	// from and until are when all of its certificates are valid.
	from, until time.Time
}

// oidPrecertificateSigning marks a certificate that signs precertificates in
// place of the issuing one (RFC 6962, Section 3.1).
var oidPrecertificateSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 4}

// NewIssuers lists issuing certificates. Each comes first in a list of its own,
// in which the certificates above it may follow, up to the root. What is above it
// is not an issuer by that: only certificates that a listed one has signed are
// taken.
func NewIssuers(lists [][]*x509.Certificate) (*Issuers, error) {
	if len(lists) == 0 {
		return nil, errors.New("rfc6962: no issuing certificate is listed, so nothing could be submitted")
	}
	paths, err := lru.New[fingerprint, *path](maxPaths)
	if err != nil {
		return nil, fmt.Errorf("rfc6962: %w", err)
	}
	is := &Issuers{above: make(map[fingerprint][]*x509.Certificate), paths: paths}
	for _, list := range lists {
		if err := is.add(list); err != nil {
			return nil, fmt.Errorf("rfc6962: %w", err)
		}
	}
	return is, nil
}

func (is *Issuers) add(list []*x509.Certificate) error {
	if len(list) == 0 {
		return errors.New("a list of issuing certificates is empty")
	}
	if len(list) >= maxChain {
		return fmt.Errorf("%d certificates in one list, at most %d", len(list), maxChain-1)
	}
	issuer := list[0]
	if !issuer.IsCA || !issuer.BasicConstraintsValid {
		return fmt.Errorf("the certificate of %q is not that of a certificate authority", issuer.Subject)
	}
	if slices.ContainsFunc(issuer.UnknownExtKeyUsage, oidPrecertificateSigning.Equal) {
		return fmt.Errorf("the certificate of %q signs precertificates only; list the issuing certificate", issuer.Subject)
	}
	if err := linked(list); err != nil {
		return err
	}
	is.listed = append(is.listed, issuer)
	for i, c := range list {
		// Of two lists that share a certificate, the longer one says more.
		if id := sha256.Sum256(c.Raw); len(is.above[id]) < len(list)-i {
			is.above[id] = list[i:]
		}
		is.suffixes = append(is.suffixes, list[i:])
	}
	if top := list[len(list)-1].Raw; !slices.ContainsFunc(is.tops, func(b []byte) bool { return bytes.Equal(b, top) }) {
		is.tops = append(is.tops, top)
	}
	return nil
}

// linked reports that each certificate has signed the one before it.
func linked(certs []*x509.Certificate) error {
	for i, c := range certs[:len(certs)-1] {
		if err := signedBy(c, certs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func signedBy(c, parent *x509.Certificate) error {
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("the issuer of %q is %q, but the next certificate is that of %q", c.Subject, c.Issuer, parent.Subject)
	}
	if err := c.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("the signature of %q by %q: %w", c.Subject, parent.Subject, err)
	}
	return nil
}

var (
	errForeign   = errors.New("the certificate was issued by none of the issuing certificates that this log lists; see get-roots")
	errNotLinked = errors.New("no path to a certificate that this log knows; see get-roots")
)

// pathOf returns the verified path above a leaf. submitted is what came with it,
// which may be nothing if the issuing certificate is a listed one.
func (is *Issuers) pathOf(leaf *x509.Certificate, submitted [][]byte, now time.Time) (*path, error) {
	if len(submitted) > 0 {
		p, err := is.verifiedPath(submitted, now)
		if err != nil {
			return nil, err
		}
		return p, signedBy(leaf, p.certs[0])
	}
	last := errForeign
	for _, c := range is.listed {
		if !bytes.Equal(c.RawSubject, leaf.RawIssuer) {
			continue
		}
		p, err := is.verifiedPath([][]byte{c.Raw}, now)
		if err == nil {
			err = signedBy(leaf, c)
		}
		if err == nil {
			return p, nil
		}
		last = err
	}
	return nil, last
}

// verifiedPath takes the path from memory or verifies it. A failure is not
// remembered: who sends junk meets the quota.
func (is *Issuers) verifiedPath(submitted [][]byte, now time.Time) (*path, error) {
	h := sha256.New()
	for _, der := range submitted {
		sum := sha256.Sum256(der)
		h.Write(sum[:])
	}
	id := fingerprint(h.Sum(nil))
	p, ok := is.paths.Get(id)
	if !ok {
		var err error
		if p, err = is.verify(submitted, now); err != nil {
			return nil, err
		}
		is.paths.Add(id, p)
	}
	if now.Before(p.from) || now.After(p.until) {
		return nil, fmt.Errorf("the path to the root is valid from %s to %s only", p.from.Format(time.RFC3339), p.until.Format(time.RFC3339))
	}
	return p, nil
}

func (is *Issuers) verify(submitted [][]byte, now time.Time) (*path, error) {
	is.verified.Add(1)
	certs := make([]*x509.Certificate, len(submitted))
	for i, der := range submitted {
		var err error
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
	}
	if !slices.ContainsFunc(is.listed, func(l *x509.Certificate) bool { return sameAuthority(l, certs[0]) }) {
		return nil, errForeign
	}
	if err := linked(certs); err != nil {
		return nil, err
	}
	certs, err := is.complete(certs)
	if err != nil {
		return nil, err
	}
	return verifyExactly(certs, now)
}

// sameAuthority reports that two certificates are of one issuer: by name and key,
// so that its cross-signed certificates count too.
func sameAuthority(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// complete follows a chain up to the first certificate of our lists, and goes on
// as the list does. So nothing stands above a certificate that we know but what we
// were told ourselves, and the log stores no certificate that only its submitter
// knows a reason for.
func (is *Issuers) complete(certs []*x509.Certificate) ([]*x509.Certificate, error) {
	for i, c := range certs {
		if above, ok := is.above[sha256.Sum256(c.Raw)]; ok {
			return slices.Concat(certs[:i], above), nil
		}
	}
	top := certs[len(certs)-1]
	for _, above := range is.suffixes {
		if signedBy(top, above[0]) == nil {
			return slices.Concat(certs, above), nil
		}
	}
	return nil, errNotLinked
}

// verifyExactly has crypto/x509 verify this very path: validity, constraints on
// its length and names, and that it may lead to code signing.
func verifyExactly(certs []*x509.Certificate, now time.Time) (*path, error) {
	last := len(certs) - 1
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(certs[last])
	for _, c := range certs[min(1, last):last] {
		between.AddCert(c)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return nil, fmt.Errorf("the path above the certificate: %w", err)
	}
	same := func(chain []*x509.Certificate) bool { return slices.EqualFunc(chain, certs, (*x509.Certificate).Equal) }
	if !slices.ContainsFunc(chains, same) {
		return nil, errNotLinked
	}
	p := &path{certs: certs, from: certs[0].NotBefore, until: certs[0].NotAfter}
	for _, c := range certs {
		p.raw = append(p.raw, c.Raw)
		if c.NotBefore.After(p.from) {
			p.from = c.NotBefore
		}
		if c.NotAfter.Before(p.until) {
			p.until = c.NotAfter
		}
	}
	return p, nil
}
