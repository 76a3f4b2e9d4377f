package ceremony

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// clockSlack is how far a new authority's validity reaches back, so that a
// service whose clock is behind the ceremony's can start at once.
const clockSlack = time.Hour

// HierarchyConfig describes a root and the intermediate under it.
type HierarchyConfig struct {
	// RootName and IssuingName are the two subjects, which must differ.
	RootName, IssuingName Name
	// RootYears and IssuingYears are how long they are valid. The root must
	// outlive the intermediate.
	RootYears, IssuingYears int
	// Root and Issuing sign; only the public half of Issuing is used.
	Root    crypto.Signer
	Issuing crypto.PublicKey
	// Now is the time of the ceremony.
	Now time.Time
}

// Hierarchy is a root and an intermediate that passed every check.
type Hierarchy struct {
	Root, Issuing *x509.Certificate
	// Findings are what [ca.Inspect] said of the chain; none is a problem.
	Findings []ca.Finding
}

// DefaultNames returns the subjects for an organization. They hold the year, so
// that a successor has another name, as clients that find issuers by name need.
func DefaultNames(organization string, now time.Time) (root, issuing Name, err error) {
	o := "O=" + escape(organization)
	if root, err = ParseName(fmt.Sprintf("CN=Mayfly Root CA %d,%s", now.UTC().Year(), o)); err != nil {
		return Name{}, Name{}, err
	}
	issuing, err = ParseName(fmt.Sprintf("CN=Mayfly Issuing CA %d,%s", now.UTC().Year(), o))
	return root, issuing, err
}

// NewHierarchy signs a root with its own key and an intermediate with the root's.
//
// The root allows one authority below it and names no purpose: verifiers take a
// purpose in a root for a constraint, and some refuse it. The intermediate is
// what a request of ours asks for: path length 0, codeSigning alone.
func NewHierarchy(cfg HierarchyConfig) (*Hierarchy, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("ceremony: %w", err)
	}
	rootTemplate, err := template(cfg.RootName, cfg.Root.Public(), cfg.Now, cfg.RootYears)
	if err != nil {
		return nil, fmt.Errorf("ceremony: %w", err)
	}
	rootTemplate.MaxPathLen = 1
	root, err := create(rootTemplate, rootTemplate, cfg.Root.Public(), cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("ceremony: making the root: %w", err)
	}
	issuingTemplate, err := template(cfg.IssuingName, cfg.Issuing, cfg.Now, cfg.IssuingYears)
	if err != nil {
		return nil, fmt.Errorf("ceremony: %w", err)
	}
	issuingTemplate.MaxPathLenZero = true
	issuingTemplate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	issuing, err := create(issuingTemplate, root, cfg.Issuing, cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("ceremony: making the intermediate: %w", err)
	}
	h := &Hierarchy{Root: root, Issuing: issuing}
	h.Findings = ca.Inspect(h.Chain(), cfg.Issuing, cfg.Now)
	for _, f := range h.Findings {
		if f.Level == ca.Problem {
			return nil, fmt.Errorf("ceremony: the new chain is not usable, %s: %s", f.Check, f.Text)
		}
	}
	return h, nil
}

// Chain returns the intermediate and the root.
func (h *Hierarchy) Chain() []*x509.Certificate { return []*x509.Certificate{h.Issuing, h.Root} }

func (cfg HierarchyConfig) check() error {
	switch {
	case cfg.Root == nil || cfg.Issuing == nil:
		return errors.New("a hierarchy needs two keys")
	case samePublicKey(cfg.Root.Public(), cfg.Issuing):
		return errors.New("root and intermediate have the same key: the root's must be able to stay offline")
	case cfg.RootName.IsZero() || cfg.IssuingName.IsZero():
		return errors.New("a hierarchy needs two names")
	case cfg.RootName.String() == cfg.IssuingName.String():
		return fmt.Errorf("root and intermediate have the same name %q", cfg.RootName)
	case strings.Contains(cfg.RootName.String(), ca.DemoOrganization):
		return errors.New("this organization is that of the demonstration, which the service refuses")
	case cfg.IssuingYears < 1 || cfg.RootYears > 50:
		return fmt.Errorf("validity of %d and %d years: allowed are 1 to 50", cfg.RootYears, cfg.IssuingYears)
	case cfg.RootYears < cfg.IssuingYears:
		return fmt.Errorf("the root would be valid for %d years and the intermediate for %d: the root must not end first", cfg.RootYears, cfg.IssuingYears)
	}
	return nil
}

func template(subject Name, public crypto.PublicKey, now time.Time, years int) (*x509.Certificate, error) {
	id, err := keyID(public)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now = now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		SerialNumber: serial, RawSubject: subject.DER(), SubjectKeyId: id,
		NotBefore: now.Add(-clockSlack), NotAfter: now.AddDate(years, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil
}

// newSerial returns 158 random bits, positive and always 20 octets long.
//
// RFC 5280, Section 4.1.2.2: "CAs MUST force the serialNumber to be a
// non-negative integer [...] Conforming CAs MUST NOT use serialNumber values
// longer than 20 octets."
func newSerial() (*big.Int, error) {
	b := make([]byte, 20)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b), nil
}

func create(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
