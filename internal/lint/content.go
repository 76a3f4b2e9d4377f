package lint

import (
	"bytes"
	"encoding/asn1"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kinds of GeneralName (RFC 5280, Section 4.2.1.6).
const (
	tagOther = 0
	tagEmail = 1
	tagURI   = 6
)

// name demands exactly one subject alternative name that everybody reads alike.
// crypto/x509 accepts a NUL in a mail address and drops what it does not know, so
// the extension is read here anew.
func (l *leaf) name() {
	value, ok := l.value(oidSAN)
	if !ok {
		return // extensions has said so
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(value, &names); err != nil || len(rest) > 0 {
		l.bad(LintName, "subject alternative name is malformed")
		return
	}
	if len(names) != 1 {
		l.bad(LintName, "%d names, not one", len(names))
		return
	}
	n := names[0]
	switch {
	case n.Class != asn1.ClassContextSpecific:
		l.bad(LintName, "name is malformed")
	case n.Tag == tagEmail:
		l.email(string(n.Bytes))
	case n.Tag == tagURI:
		l.uri(string(n.Bytes))
	case n.Tag == tagOther:
		l.otherName(n.FullBytes)
	default:
		l.bad(LintName, "a name of kind [%d]; want an e-mail address, a URI or Fulcio's user name", n.Tag)
	}
}

// graphic reports printable ASCII without space.
func graphic(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

func (l *leaf) email(s string) {
	local, host, _ := strings.Cut(s, "@")
	if !graphic(s) || local == "" || strings.Count(s, "@") != 1 || len(s) > 254 {
		l.bad(LintName, "%q is no mail address", s)
		return
	}
	l.host(s, host)
}

// host demands a lower-case host name (RFC 1123, Section 2.1).
func (l *leaf) host(name, host string) {
	for label := range strings.SplitSeq(host, ".") {
		bad := strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
		})
		if bad || label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") || len(host) > 253 {
			l.bad(LintName, "%q has no host name in lower case", name)
			return
		}
	}
}

func (l *leaf) uri(s string) {
	u, err := url.Parse(s)
	switch {
	case err != nil || !graphic(s):
		l.bad(LintName, "%q is no URI", s)
	case u.Scheme != "https" && u.Scheme != "spiffe":
		l.bad(LintName, "%q has the scheme %q", s, u.Scheme)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#") || u.Opaque != "":
		l.bad(LintName, "%q has user information, a query or a fragment", s)
	case u.String() != s:
		l.bad(LintName, "%q would be written %q by another program", s, u)
	case slices.ContainsFunc(strings.Split(u.Path, "/"), func(p string) bool { return p == "." || p == ".." }):
		l.bad(LintName, "%q has a relative path", s)
	default:
		l.host(s, u.Hostname())
	}
}

// otherName reads OtherName ::= SEQUENCE { type-id, value [0] EXPLICIT ANY }.
func (l *leaf) otherName(der []byte) {
	var other struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"tag:0,explicit,utf8"`
	}
	if rest, err := asn1.UnmarshalWithParams(der, &other, "tag:0"); err != nil || len(rest) > 0 {
		l.bad(LintName, "other name is malformed")
		return
	}
	user, host, ok := strings.Cut(other.Value, "!")
	if !other.Type.Equal(oidFulcioOther) || !ok || user == "" || !graphic(other.Value) || strings.Count(other.Value, "!") != 1 {
		l.bad(LintName, "other name %v %q is not Fulcio's user!domain", other.Type, other.Value)
		return
	}
	l.host(other.Value, host)
}

// fulcio reads the extensions 1.3.6.1.4.1.57264.1.*.
func (l *leaf) fulcio() {
	values, last := map[int]string{}, 0
	for _, e := range l.cert.Extensions {
		n := fulcioNumber(e.Id)
		if n == 0 {
			continue
		}
		if n <= last {
			l.bad(LintFulcio, ".%d stands after .%d", n, last)
		}
		last = n
		text := string(e.Value)
		if n > fulcioLastRaw {
			rest, err := asn1.UnmarshalWithParams(e.Value, &text, "utf8")
			again, _ := asn1.MarshalWithParams(text, "utf8")
			if err != nil || len(rest) > 0 || !bytes.Equal(again, e.Value) {
				l.bad(LintFulcio, ".%d is not one UTF8String in DER: %x", n, e.Value)
				continue
			}
		}
		if text == "" || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			l.bad(LintFulcio, ".%d is empty, or has control characters: %q", n, text)
		}
		values[n] = text
	}
	// podman and CRI-O read both and refuse certificates in which they differ.
	if values[fulcioIssuerRaw] == "" || values[fulcioIssuerRaw] != values[fulcioIssuer] {
		l.bad(LintFulcio, "issuers .1 %q and .8 %q are not one", values[fulcioIssuerRaw], values[fulcioIssuer])
	}
	if values[fulcioTokenOwner] == "" {
		l.bad(LintFulcio, "token subject .24 is missing")
	}
}

// logging demands poison or SCT list, whole, last and not both.
func (l *leaf) logging() {
	poison, poisoned := l.value(oidPoison)
	list, logged := l.value(oidSCTList)
	if poisoned && logged {
		l.bad(LintLogging, "is precertificate and certificate in one")
	}
	// RFC 6962, Section 3.1.
	if poisoned && !bytes.Equal(poison, asn1.NullBytes) {
		l.bad(LintLogging, "poison is %x, not NULL", poison)
	}
	if last := l.cert.Extensions; (poisoned || logged) && !last[len(last)-1].Id.Equal(oidPoison) && !last[len(last)-1].Id.Equal(oidSCTList) {
		l.bad(LintLogging, "poison or SCT list is not the last extension")
	}
	if !logged {
		return
	}
	// RFC 6962, Section 3.3: a list with a length of two octets, of SCTs with
	// lengths of two octets. sigstore-python and sigstore-rs want exactly one.
	var tls []byte
	rest, err := asn1.Unmarshal(list, &tls)
	if err != nil || len(rest) > 0 || len(tls) < 5 ||
		int(tls[0])<<8|int(tls[1]) != len(tls)-2 || int(tls[2])<<8|int(tls[3]) != len(tls)-4 {
		l.bad(LintLogging, "SCT list does not hold exactly one SCT: %x", list)
	}
}
