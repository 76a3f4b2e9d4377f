package ca

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// DemoOrganization is the organization in the subject of every certificate that
// the demonstration stack makes. The real service refuses chains that hold one.
const DemoOrganization = "Mayfly demonstration - trust nothing signed by it"

// Limits of a chain file.
const (
	maxChainFile    = 64 << 10
	maxChainLength  = 8
	minRSAIssuerLen = 2048
)

// ChainConfig describes a chain from the issuing certificate to the root.
type ChainConfig struct {
	// Name is the chain's name in the configuration.
	Name string
	// Authority is whose chain it is; empty means "default".
	Authority string
	// Certificates are the issuing certificate first and the root last.
	Certificates []*x509.Certificate
	// Signer holds the issuing certificate's key.
	Signer Signer
	// CrossSigned are further paths for the same issuing key and subject, each
	// with its root last, for verifiers who trust another root. They are
	// published right after the chain's own path, and used for nothing else.
	CrossSigned [][]*x509.Certificate
	// PublishFrom is when the chain enters the trust bundle, Activate when it
	// starts to sign, Retire when it stops. Zero means always, always, never.
	PublishFrom, Activate, Retire time.Time
	// MinLead is how long the chain must have been published before it signs; 0
	// means [DefaultMinLead]. [New] refuses to follow an Authority with a chain
	// that would sign sooner, unless Emergency.
	MinLead   time.Duration
	Emergency bool
	// CAIssuersURL is where the issuing certificate can be fetched, CRLURL where
	// its revocation list can; both http or https. They go into certificates
	// (authority information access, CRL distribution points); empty leaves the
	// extension out.
	CAIssuersURL, CRLURL string
}

// DefaultMinLead gives clients a day to fetch the trust bundle.
const DefaultMinLead = 24 * time.Hour

// Chain is an issuing certificate with its key and the path to its root,
// checked once. It is immutable.
type Chain struct {
	name, authority               string
	certificates                  []*x509.Certificate
	ders                          [][]byte
	pems                          []string
	signer                        Signer
	publishFrom, activate, retire time.Time
	minLead                       time.Duration
	emergency                     bool
	caIssuersURL, crlURL          string
	// crossSigned are the further paths, for publication: they never sign.
	crossSigned []*Chain
	// notBefore and notAfter bound what every certificate of the chain allows.
	notBefore, notAfter time.Time
	issuerKeyHash       [32]byte
	hash                crypto.Hash
	algorithm           x509.SignatureAlgorithm
	signatureAlgorithm  []byte // DER of algorithm
	// verifier returns what checks the signatures of signer.
	verifier func() func(digest, signature []byte) bool
	// twin makes rehearsals and, when constrained, judges every name. Paths
	// that never sign have none.
	twin        *twin
	constrained bool
}

// ParseChain reads certificates from PEM, issuing certificate first and root
// last, and refuses anything else in the file: a private key that slipped in
// must not be published with the chain.
func ParseChain(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxChainFile {
		return nil, fmt.Errorf("chain file has %d bytes, more than %d", len(data), maxChainFile)
	}
	var certs []*x509.Certificate
	for rest := data; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			if len(certs) == 0 {
				return nil, errors.New("no PEM certificate found")
			}
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, fmt.Errorf("text after certificate %d is no PEM block", len(certs))
			}
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is a %q; a chain file holds nothing but certificates", len(certs)+1, block.Type)
		}
		if len(certs) == maxChainLength {
			return nil, fmt.Errorf("more than %d certificates", maxChainLength)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
		rest = after
	}
}

// NewChain checks a chain at the time now and returns it, or every reason why
// it cannot be used, joined.
func NewChain(cfg ChainConfig, now time.Time) (*Chain, error) {
	if cfg.Name == "" {
		return nil, errors.New("chain without a name")
	}
	if len(cfg.Certificates) == 0 {
		return nil, fmt.Errorf("chain %q has no certificates", cfg.Name)
	}
	c := &Chain{
		name: cfg.Name, authority: cfg.Authority, certificates: slices.Clone(cfg.Certificates), signer: cfg.Signer,
		publishFrom: cfg.PublishFrom, activate: cfg.Activate, retire: cfg.Retire,
		minLead: cfg.MinLead, emergency: cfg.Emergency, caIssuersURL: cfg.CAIssuersURL, crlURL: cfg.CRLURL,
	}
	c.authority = orDefault(c.authority)
	if c.minLead == 0 {
		c.minLead = DefaultMinLead
	}
	if err := c.check(now); err != nil {
		return nil, fmt.Errorf("chain %q: %w", c.name, err)
	}
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("chain %q: %w", c.name, err)
	}
	for i, path := range cfg.CrossSigned {
		cross, err := c.cross(path, now)
		if err != nil {
			return nil, fmt.Errorf("chain %q: cross-signed path %d: %w", c.name, i+1, err)
		}
		c.crossSigned = append(c.crossSigned, cross)
	}
	var err error
	if c.twin, err = newTwin(c.certificates); err != nil {
		return nil, fmt.Errorf("chain %q: %w", c.name, err)
	}
	c.constrained = constrained(c.certificates)
	return c, nil
}

// encodePEM returns one certificate without a final newline, as Fulcio's
// answers carry it. It is what encoding/pem makes, at once where that takes a
// buffer, an encoder and two copies; every answer holds one.
func encodePEM(der []byte) string {
	const begin, end = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----"
	const octets = 48 // in a line of 64 characters (RFC 7468, Section 2)
	var line [64 + 1]byte
	var s strings.Builder
	s.Grow(len(begin) + base64.StdEncoding.EncodedLen(len(der)) + len(der)/octets + 1 + len(end))
	s.WriteString(begin)
	for part := range slices.Chunk(der, octets) {
		n := base64.StdEncoding.EncodedLen(len(part))
		base64.StdEncoding.Encode(line[:], part)
		line[n] = '\n'
		s.Write(line[:n+1])
	}
	s.WriteString(end)
	return s.String()
}

// complete computes what follows from the certificates.
func (c *Chain) complete() error {
	for i, cert := range c.certificates {
		c.ders = append(c.ders, cert.Raw)
		c.pems = append(c.pems, encodePEM(cert.Raw))
		if i == 0 || cert.NotBefore.After(c.notBefore) {
			c.notBefore = cert.NotBefore
		}
	}
	c.notAfter = end(c.certificates)
	c.issuerKeyHash = sha256.Sum256(c.issuing().RawSubjectPublicKeyInfo)
	var err error
	if c.hash, c.algorithm, err = scheme(c.issuing().PublicKey); err != nil {
		return err
	}
	c.verifier = sync.OnceValue(c.newVerifier)
	c.signatureAlgorithm, err = algorithmIdentifier(c.algorithm)
	return err
}

// check inspects the certificates and looks at what the configuration says
// about them.
func (c *Chain) check(now time.Time) error {
	in := &inspection{certs: c.certificates, now: now, retired: c.retiredAt(now)}
	var public crypto.PublicKey
	if c.signer != nil {
		public = c.signer.Public()
	}
	errs := []error{problems(in.run(public, c.signer == nil))}
	if c.signer == nil && !in.retired {
		errs = append(errs, errors.New("has no key; only a retired chain needs none"))
	}
	if !c.retire.IsZero() && !c.retire.After(c.activate) {
		errs = append(errs, errors.New("retires before it is active"))
	}
	if c.publishFrom.After(c.activate) && !c.publishFrom.IsZero() {
		errs = append(errs, errors.New("signs before it is published"))
	}
	if c.minLead < 0 {
		errs = append(errs, fmt.Errorf("its min_lead of %v is negative", c.minLead))
	}
	return errors.Join(append(errs, checkURL("ca_issuers_url", c.caIssuersURL), checkURL("crl_url", c.crlURL))...)
}

// cross returns a further path as a chain that is published and never signs.
// Who trusts its root must come to the same issuing key, by the same name and
// key identifier, or will not find it.
func (c *Chain) cross(path []*x509.Certificate, now time.Time) (*Chain, error) {
	in := &inspection{certs: path, now: now, retired: c.retiredAt(now)}
	if err := problems(in.run(c.issuing().PublicKey, false)); err != nil {
		return nil, err
	}
	if !bytes.Equal(path[0].RawSubject, c.issuing().RawSubject) || !bytes.Equal(path[0].SubjectKeyId, c.issuing().SubjectKeyId) {
		return nil, fmt.Errorf("its first certificate (%s) has another subject or key identifier than the chain's (%s)", subjectOf(path[0]), subjectOf(c.issuing()))
	}
	for _, other := range append([]*Chain{c}, c.crossSigned...) {
		if slices.EqualFunc(path, other.certificates, (*x509.Certificate).Equal) {
			return nil, errors.New("it is a path that is there already; leave one of them out")
		}
	}
	further := &Chain{
		name: c.name, authority: c.authority, certificates: slices.Clone(path),
		publishFrom: c.publishFrom, activate: c.activate, retire: c.retire,
	}
	return further, further.complete()
}

// maxURLInCertificate bounds what every certificate carries.
const maxURLInCertificate = 256

// checkURL accepts what RFC 5280, Sections 4.2.2.1 and 4.2.1.13, let clients
// fetch without a directory, as every parser of certificates reads it back.
func checkURL(what, s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || len(s) > maxURLInCertificate || u.String() != s || u.Host == "" || u.User != nil || u.Fragment != "" ||
		u.Scheme != "http" && u.Scheme != "https" ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("its %s %q is no http or https URL of at most %d printable characters", what, s, maxURLInCertificate)
	}
	return nil
}

// Name returns the chain's name in the configuration.
func (c *Chain) Name() string { return c.name }

// Authority returns the name of the authority that the chain belongs to.
func (c *Chain) Authority() string { return c.authority }

// Certificates returns the issuing certificate first and the root last.
func (c *Chain) Certificates() []*x509.Certificate { return slices.Clone(c.certificates) }

// PEM returns the certificates in the same order, each without a final newline.
func (c *Chain) PEM() []string { return slices.Clone(c.pems) }

// Demo reports that a certificate of the chain was made for demonstration.
func (c *Chain) Demo() bool {
	return slices.ContainsFunc(c.certificates, func(cert *x509.Certificate) bool {
		return slices.Contains(cert.Subject.Organization, DemoOrganization)
	}) || slices.ContainsFunc(c.crossSigned, (*Chain).Demo)
}

// PublishFrom returns when the chain enters the trust bundle; zero means always.
func (c *Chain) PublishFrom() time.Time { return c.publishFrom }

func (c *Chain) issuing() *x509.Certificate { return c.certificates[0] }

// retiredAt reports that the chain never signs again.
func (c *Chain) retiredAt(now time.Time) bool { return !c.retire.IsZero() && !now.Before(c.retire) }

// signerReady reports why the chain's key would not sign now. A chain that had
// retired when it was made need not have one; should it sign after all, because
// the clock was set back, it cannot.
func (c *Chain) signerReady() error {
	if c.signer == nil {
		return errors.New("it has no key")
	}
	return c.signer.Ready()
}

func (c *Chain) published(now time.Time) bool { return !now.Before(c.publishFrom) }

// signing returns the chain of the named authority that signs at now: the one
// with the latest past activation, and no other if that one is retired. It
// looks at the configuration and the clock only, never at health, so that
// replicas agree and an outage cannot bring an old key back.
func signing(chains []*Chain, authority string, now time.Time) (*Chain, error) {
	var best *Chain
	for _, c := range chains {
		if c.authority == authority && !c.activate.After(now) && (best == nil || c.activate.After(best.activate)) {
			best = c
		}
	}
	if best == nil {
		return nil, Refuse(KindUnavailable, ReasonNoActiveChain, "authority %q has no active chain", authority)
	}
	if best.retiredAt(now) {
		return nil, Refuse(KindUnavailable, ReasonNoActiveChain, "chain %q retired at %v", best.name, best.retire)
	}
	return best, nil
}

// schedule has the chains of each authority, the latest activation first, so
// that neither other authorities nor chains to come cost an issuance anything.
type schedule map[string][]*Chain

func newSchedule(chains []*Chain) schedule {
	s := make(schedule)
	for _, c := range chains {
		s[c.authority] = append(s[c.authority], c)
	}
	for _, list := range s {
		// Stable: of two that activate together, the first in the configuration
		// signs.
		slices.SortStableFunc(list, func(x, y *Chain) int { return y.activate.Compare(x.activate) })
	}
	return s
}

// signing is what signing says about the chains of the schedule.
func (s schedule) signing(authority string, now time.Time) (*Chain, error) {
	list := s[authority]
	i, _ := slices.BinarySearchFunc(list, now, func(c *Chain, now time.Time) int { return now.Compare(c.activate) })
	return signing(list[i:min(i+1, len(list))], authority, now)
}
