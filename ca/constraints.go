package ca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints  = asn1.ObjectIdentifier{2, 5, 29, 30}
)

// generalNames are the kinds of GeneralName (RFC 5280, Section 4.2.1.6) by tag.
var generalNames = []string{
	"otherName", "rfc822Name", "dNSName", "x400Address", "directoryName", "ediPartyName",
	"uniformResourceIdentifier", "iPAddress", "registeredID",
}

// checked are the tags of the kinds that crypto/x509 compares with constraints.
var checked = []int{1, 2, 6, 7}

const tagDirectoryName = 4

// constrained reports that a certificate of the path rules names out.
func constrained(certs []*x509.Certificate) bool {
	return slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return nameConstraints(c) != nil })
}

func nameConstraints(cert *x509.Certificate) *pkix.Extension {
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidNameConstraints) })
	if i < 0 {
		return nil
	}
	return &cert.Extensions[i]
}

// constraintTags returns the tags of the kinds of name that are constrained.
//
// RFC 5280, Section 4.2.1.10:
//
//	NameConstraints ::= SEQUENCE {
//	     permittedSubtrees       [0]     GeneralSubtrees OPTIONAL,
//	     excludedSubtrees        [1]     GeneralSubtrees OPTIONAL }
//	GeneralSubtrees ::= SEQUENCE SIZE (1..MAX) OF GeneralSubtree
//	GeneralSubtree ::= SEQUENCE { base GeneralName, minimum [0] ..., maximum [1] ... }
func constraintTags(der []byte) ([]int, error) {
	in, malformed := cryptobyte.String(der), errors.New("malformed")
	var lists cryptobyte.String
	if !in.ReadASN1(&lists, cryptobyte_asn1.SEQUENCE) || !in.Empty() {
		return nil, malformed
	}
	var tags []int
	for !lists.Empty() {
		var subtrees cryptobyte.String
		var which cryptobyte_asn1.Tag
		if !lists.ReadAnyASN1(&subtrees, &which) {
			return nil, malformed
		}
		for !subtrees.Empty() {
			var subtree, base cryptobyte.String
			var kind cryptobyte_asn1.Tag
			if !subtrees.ReadASN1(&subtree, cryptobyte_asn1.SEQUENCE) || !subtree.ReadAnyASN1(&base, &kind) {
				return nil, malformed
			}
			tags = append(tags, int(kind&0x1f))
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

func (in *inspection) constraints() {
	for i, cert := range in.certs {
		ext := nameConstraints(cert)
		if ext == nil {
			continue
		}
		tags, err := constraintTags(ext.Value)
		if err != nil {
			in.about(i, CheckConstraints, Problem, "its name constraints are malformed")
			continue
		}
		var unchecked []string
		for _, tag := range tags {
			// Our certificates have no subject, so a constraint on directory
			// names says nothing about them; but who does not know the kind must
			// refuse a critical extension that has it.
			if !slices.Contains(checked, tag) && (ext.Critical || tag != tagDirectoryName) {
				unchecked = append(unchecked, kindOfName(tag))
			}
		}
		if len(unchecked) > 0 {
			in.about(i, CheckConstraints, Problem, "constrains names of kind %s, which Go's verifiers, cosign among them, do not check, so they refuse what it issues; "+
				"have it signed again with constraints on e-mail addresses and URIs only", strings.Join(unchecked, " and "))
			continue
		}
		in.about(i, CheckConstraints, Note, "rules names out: %s. Requests for other names are refused with the reason %s", constraintsText(cert), ReasonNameNotPermitted)
		if !ext.Critical {
			in.about(i, CheckConstraints, Note, "its name constraints are not critical, so clients that do not know them ignore them; they are held here all the same")
		}
	}
}

func kindOfName(tag int) string {
	if tag < len(generalNames) {
		return generalNames[tag]
	}
	return fmt.Sprintf("[%d]", tag)
}

// constraintsText lists what a certificate says about the kinds of name that
// ours can have.
func constraintsText(cert *x509.Certificate) string {
	var parts []string
	for _, list := range []struct {
		what   string
		values []string
	}{
		{"permitted e-mail", cert.PermittedEmailAddresses}, {"excluded e-mail", cert.ExcludedEmailAddresses},
		{"permitted URI host", cert.PermittedURIDomains}, {"excluded URI host", cert.ExcludedURIDomains},
	} {
		for _, v := range list.values {
			parts = append(parts, fmt.Sprintf("%s %q", list.what, v))
		}
	}
	if len(parts) == 0 {
		return "of kinds that no certificate of ours has"
	}
	return strings.Join(parts, ", ")
}

// permitted checks a name against what the certificates permit, to the letter.
// crypto/x509, which is asked first, lets a permitted host stand for everything
// below it too; OpenSSL, GnuTLS and Java do not.
//
// RFC 5280, Section 4.2.1.10: "To indicate all Internet mail addresses on a
// particular host, the constraint is specified as the host name. [...] To
// specify any address within a domain, the constraint is specified with a
// leading period (as with URIs)." And of URIs: "When the constraint does not
// begin with a period, it specifies a host."
func permitted(certs []*x509.Certificate, san SAN) error {
	for _, c := range certs {
		var list []string
		switch san.kind {
		case SANEmail:
			list = c.PermittedEmailAddresses
		case SANURI:
			list = c.PermittedURIDomains
		}
		if len(list) > 0 && !slices.ContainsFunc(list, func(p string) bool { return within(p, san) }) {
			return fmt.Errorf("%q permits none but %q", subjectOf(c), list)
		}
	}
	return nil
}

// within reports that a name lies in a permitted subtree of its kind.
func within(subtree string, san SAN) bool {
	local, host, _ := strings.Cut(san.value, "@")
	if san.kind == SANURI {
		u, err := url.Parse(san.value)
		if err != nil {
			return false
		}
		host = u.Hostname()
	}
	switch {
	case subtree == "":
		return true
	case strings.Contains(subtree, "@"):
		wantLocal, wantHost, _ := strings.Cut(subtree, "@")
		return local == wantLocal && strings.EqualFold(host, wantHost)
	case subtree[0] == '.':
		return len(host) > len(subtree) && strings.EqualFold(host[len(host)-len(subtree):], subtree)
	}
	return strings.EqualFold(host, subtree)
}
