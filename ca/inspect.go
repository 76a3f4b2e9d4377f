package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// The checks of [Inspect], in its order.
const (
	CheckPath        = "path"                // order and signatures, root last
	CheckDuplicates  = "duplicates"          // no certificate twice
	CheckKey         = "key"                 // the key belongs to the first certificate
	CheckAuthority   = "ca"                  // every certificate is a CA's
	CheckPathLength  = "path-length"         // room for the certificates below
	CheckKeyUsage    = "key-usage"           // keyCertSign
	CheckPurpose     = "extended-key-usage"  // codeSigning, or nothing said
	CheckConstraints = "name-constraints"    // of kinds that can be checked
	CheckValidity    = "validity"            // and how long it lasts
	CheckAlgorithms  = "algorithms"          // keys and signatures
	CheckIdentifiers = "key-identifiers"     // subject and authority key identifier
	CheckCritical    = "critical-extensions" // understood by verifiers
	CheckSize        = "size"                // small enough for OpenShift
	CheckRehearsal   = "rehearsal"           // throw-away certificates verify
	CheckDesktops    = "desktops"            // who else trusts this root
)

const (
	// maxOpenShift is how many characters of CA data an OpenShift policy takes.
	maxOpenShift = 8 << 10
	// usualLeafPEM is about what a CI job's certificate with every extension has.
	usualLeafPEM = 3 << 10
	// codeSigningAlone is what to ask a CA for, as OpenSSL writes it.
	codeSigningAlone = "extendedKeyUsage = codeSigning"
)

// desktopsText is the question that is to be answered once for each chain.
const desktopsText = "find out whether desktops trust this root: if it is in the Windows root program, or spread by " +
	"group policy, MDM or a golden image, then every holder of a certificate of ours has a code-signing certificate that " +
	"those machines believe, for ten minutes and, with a timestamp, for good. If they do, chain to a root that desktops do " +
	"not hold, or have the intermediate distrusted for code signing there"

// inspection collects findings about one path.
type inspection struct {
	certs    []*x509.Certificate
	now      time.Time
	retired  bool // it signs no more, so it may have expired
	findings []Finding
}

// Inspect checks a path, issuing certificate first and root last, for use as a
// chain at the time now. public is the key that will sign; nil when it is not
// known here. Every check leaves at least one finding.
//
// [NewChain] refuses exactly what has a [Problem] here, in the same words.
func Inspect(certs []*x509.Certificate, public crypto.PublicKey, now time.Time) []Finding {
	in := &inspection{certs: certs, now: now}
	return in.run(public, public == nil)
}

func (in *inspection) run(public crypto.PublicKey, keyUnknown bool) []Finding {
	if len(in.certs) == 0 {
		return []Finding{{CheckPath, Problem, "there are no certificates; the file must hold the whole path, issuing certificate first, root last"}}
	}
	in.check(CheckPath, "every certificate is signed by the next, and the last is a self-signed root", in.path)
	in.check(CheckDuplicates, "no certificate is there twice", in.duplicates)
	in.check(CheckKey, "the key belongs to the first certificate", func() { in.key(public, keyUnknown) })
	in.check(CheckAuthority, "every certificate is a CA certificate", in.authority)
	in.check(CheckPathLength, "every certificate allows those below it", in.pathLength)
	in.check(CheckKeyUsage, "every certificate may sign certificates", in.keyUsage)
	in.check(CheckPurpose, "the issuing certificate is for code signing alone", in.purpose)
	in.check(CheckConstraints, "no names are ruled out", in.constraints)
	in.check(CheckValidity, "ends at "+stampDay(end(in.certs)), in.validity)
	in.check(CheckAlgorithms, "keys and signatures are strong, and of kinds that every client verifies", in.algorithms)
	in.check(CheckIdentifiers, "subject and authority key identifiers agree", in.identifiers)
	in.check(CheckCritical, "no critical extension that verifiers would not know", in.critical)
	in.check(CheckSize, fmt.Sprintf("%d characters of PEM", pemSize(in.certs)), in.size)
	if Worst(in.findings) < Problem {
		in.check(CheckRehearsal, "throw-away certificates with an e-mail address, a URI and a user name verify for code signing", in.rehearsal)
	}
	in.add(CheckDesktops, Note, desktopsText)
	return in.findings
}

// check runs one check and says ok when it found nothing.
func (in *inspection) check(name, ok string, run func()) {
	before := len(in.findings)
	run()
	if len(in.findings) == before {
		in.add(name, OK, "%s", ok)
	}
}

func (in *inspection) add(check string, level Level, format string, args ...any) {
	in.findings = append(in.findings, Finding{check, level, fmt.Sprintf(format, args...)})
}

// about adds a finding on certificate i.
func (in *inspection) about(i int, check string, level Level, format string, args ...any) {
	in.add(check, level, "certificate %d (%s): %s", i+1, subjectOf(in.certs[i]), fmt.Sprintf(format, args...))
}

// subjectOf is the subject for a terminal or a log: printable, and not empty.
func subjectOf(cert *x509.Certificate) string {
	s := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, cert.Subject.String())
	if s == "" {
		return "no subject"
	}
	return s
}

// problems returns the problems as one error, nil when there are none.
func problems(findings []Finding) error {
	var errs []error
	for _, f := range findings {
		if f.Level == Problem {
			errs = append(errs, errors.New(f.Text))
		}
	}
	return errors.Join(errs...)
}

func (in *inspection) path() {
	for i, cert := range in.certs {
		if i+1 < len(in.certs) {
			if err := checkLink(cert, in.certs[i+1]); err != nil {
				in.about(i, CheckPath, Problem, "%v; the file must hold the issuing certificate first and the root last", err)
			}
		} else if err := checkLink(cert, cert); err != nil {
			in.add(CheckPath, Problem, "the last certificate (%s) is not a self-signed root: %v; the file must hold the whole path, root last",
				subjectOf(cert), err)
		}
	}
	if len(in.certs) == 1 {
		in.add(CheckPath, Warning, "the root issues by itself: to replace its key, every client must be told; put an intermediate under it")
	}
}

func (in *inspection) duplicates() {
	for i, cert := range in.certs {
		for j, earlier := range in.certs[:i] {
			if bytes.Equal(cert.Raw, earlier.Raw) {
				in.about(i, CheckDuplicates, Problem, "is the same as certificate %d; leave one of them out", j+1)
			}
		}
	}
}

func (in *inspection) key(public crypto.PublicKey, unknown bool) {
	switch {
	case unknown:
		in.add(CheckKey, Note, "no key was given, so none was compared with the first certificate")
	case !samePublicKey(public, in.certs[0].PublicKey):
		in.add(CheckKey, Problem, "the key does not belong to the first certificate (%s); "+
			"name the key that its request was made with, or the certificate that was made of its request", subjectOf(in.certs[0]))
	}
}

func (in *inspection) authority() {
	for i, cert := range in.certs {
		if !cert.BasicConstraintsValid || !cert.IsCA {
			in.about(i, CheckAuthority, Problem, "is not a CA certificate (basicConstraints CA:TRUE is missing); "+
				"have it signed again as that of a subordinate CA")
			continue
		}
		// RFC 5280, Section 4.2.1.9: "Conforming CAs [...] MUST mark the
		// extension as critical in such certificates."
		if !isCritical(cert, oidBasicConstraints) {
			in.about(i, CheckAuthority, Warning, "its basicConstraints are not critical, as RFC 5280 wants them")
		}
	}
}

func (in *inspection) pathLength() {
	for i, cert := range in.certs {
		if !cert.BasicConstraintsValid {
			continue
		}
		limited := cert.MaxPathLen > 0 || cert.MaxPathLenZero
		if limited && cert.MaxPathLen < i {
			in.about(i, CheckPathLength, Problem, "allows a path of %d CA certificates below it, but the chain has %d", cert.MaxPathLen, i)
		}
		if i == 0 && len(in.certs) > 1 && (!limited || cert.MaxPathLen > 0) {
			in.about(i, CheckPathLength, Note, "its key could make further CAs; pathlen:0 would forbid it, and nothing here needs more")
		}
	}
}

func (in *inspection) keyUsage() {
	for i, cert := range in.certs {
		switch {
		case cert.KeyUsage == 0:
			in.about(i, CheckKeyUsage, Warning, "has no key usage; RFC 5280 wants keyCertSign in it")
		case cert.KeyUsage&x509.KeyUsageCertSign == 0:
			in.about(i, CheckKeyUsage, Problem, "key usage lacks keyCertSign; have it signed again as that of a subordinate CA")
		}
	}
}

// purpose looks at extended key usages. Verifiers want codeSigning in every
// certificate that lists any, the root included.
func (in *inspection) purpose() {
	for i, cert := range in.certs {
		eku := cert.ExtKeyUsage
		listed := len(eku) + len(cert.UnknownExtKeyUsage)
		codeSigning, anyUsage := slices.Contains(eku, x509.ExtKeyUsageCodeSigning), slices.Contains(eku, x509.ExtKeyUsageAny)
		switch {
		case listed > 0 && !codeSigning && !anyUsage:
			in.about(i, CheckPurpose, Problem, "extended key usage lacks codeSigning, so clients refuse what it issues; "+
				"have it signed again with %s, or without any", codeSigningAlone)
		case i > 0:
		case listed == 0:
			in.about(i, CheckPurpose, Note, "has no extended key usage, so its key could make certificates for any purpose. "+
				"It is accepted: AD CS, for one, leaves requested usages out of what its SubCA template signs. If your CA can, have it signed again with %s",
				codeSigningAlone)
		case listed > 1 || anyUsage:
			in.about(i, CheckPurpose, Note, "allows more than codeSigning; nothing here needs more, and %s would say so", codeSigningAlone)
		}
	}
}

func (in *inspection) validity() {
	for i, cert := range in.certs {
		switch left := cert.NotAfter.Sub(in.now); {
		case left < 0 && in.retired:
			in.about(i, CheckValidity, Note, "expired at %s; it stays published for the signatures made before", stamp(cert.NotAfter))
		case left < 0:
			in.about(i, CheckValidity, Problem, "expired at %s; put a renewed chain in its place, or write retire: into its entry if it signs no more", stamp(cert.NotAfter))
		case left < MaxLifetime:
			in.about(i, CheckValidity, Warning, "ends at %s: no certificate of ten minutes can be issued any more, because it would outlive it", stamp(cert.NotAfter))
		default:
			if days := expiryWarning(cert.NotAfter, in.now); days > 0 {
				in.about(i, CheckValidity, Warning, "ends at %s, in less than %d days; publish its successor now, so that clients know it in time", stamp(cert.NotAfter), days)
			}
		}
		if cert.NotBefore.After(in.now) {
			in.about(i, CheckValidity, Note, "is not valid before %s; nothing can be issued until then", stamp(cert.NotBefore))
		}
		if i > 0 && cert.NotAfter.Before(in.certs[i-1].NotAfter) {
			in.about(i, CheckValidity, Note, "ends before the certificate below it, so the chain ends at %s", stamp(cert.NotAfter))
		}
	}
}

// expiryDays are the days before the end at which warnings begin.
var expiryDays = []int{7, 30, 70}

// expiryWarning returns 7, 30 or 70 when less than so many days are left before
// end, and 0 when there is time.
func expiryWarning(end, now time.Time) int {
	for _, days := range expiryDays {
		if end.Sub(now) < time.Duration(days)*24*time.Hour {
			return days
		}
	}
	return 0
}

// end returns when the first of the certificates ends.
func end(certs []*x509.Certificate) time.Time {
	first := certs[0].NotAfter
	for _, c := range certs[1:] {
		if c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func stampDay(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func (in *inspection) identifiers() {
	for i, cert := range in.certs {
		root := i == len(in.certs)-1
		switch {
		case len(cert.SubjectKeyId) == 0 && i == 0:
			in.about(i, CheckIdentifiers, Problem, "has no subject key identifier, which our certificates must name; have it signed again with subjectKeyIdentifier = hash")
		case len(cert.SubjectKeyId) == 0:
			in.about(i, CheckIdentifiers, Warning, "has no subject key identifier; some clients find issuers by it")
		}
		if len(cert.AuthorityKeyId) == 0 && !root {
			in.about(i, CheckIdentifiers, Warning, "has no authority key identifier; some clients find issuers by it")
		}
	}
}

func (in *inspection) critical() {
	for i, cert := range in.certs {
		// Constraints on names have a check of their own.
		unknown := slices.DeleteFunc(slices.Clone(cert.UnhandledCriticalExtensions), oidNameConstraints.Equal)
		if len(unknown) > 0 {
			in.about(i, CheckCritical, Problem, "has critical extensions that are not understood: %v; clients refuse it for them", unknown)
		}
	}
}

func isCritical(cert *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oid) {
			return e.Critical
		}
	}
	return false
}

func pemSize(certs []*x509.Certificate) (n int) {
	for _, c := range certs {
		n += len(encodePEM(c.Raw)) + 1
	}
	return n
}

// size looks at the 8192 characters that OpenShift's image policies take as CA
// data, and at signatures that carry certificate and intermediates with them.
func (in *inspection) size() {
	if n := pemSize(in.certs); n > maxOpenShift {
		in.add(CheckSize, Warning, "the chain has %d characters of PEM; an OpenShift image policy takes %d", n, maxOpenShift)
	}
	if n := pemSize(in.certs[:len(in.certs)-1]) + usualLeafPEM; n > maxOpenShift {
		in.add(CheckSize, Warning, "a certificate with its intermediates has about %d characters of PEM, more than the %d that registries and OpenShift "+
			"take everywhere; a shorter chain, or ECDSA keys, would fit", n, maxOpenShift)
	}
	if len(in.certs) > 3 {
		in.add(CheckSize, Note, "there are %d certificates; a root and one intermediate travel best", len(in.certs))
	}
}
