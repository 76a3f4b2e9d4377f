package ca

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// SANKind is the kind of a subject alternative name.
type SANKind string

// The kinds of subject alternative name that a certificate may carry.
const (
	SANEmail    SANKind = "email"    // rfc822Name
	SANURI      SANKind = "uri"      // uniformResourceIdentifier
	SANUsername SANKind = "username" // otherName of Fulcio's type, "user!domain"
)

// Limits on names, in bytes. RFC 5321, Section 4.5.3.1 bounds mail addresses;
// 2048 is what every verifier's URI parser takes.
const (
	maxEmail     = 254
	maxLocalPart = 64
	maxURI       = 2048
	maxUsername  = 254
)

// SAN is the one subject alternative name of a certificate. Only [EmailSAN],
// [URISAN] and [UsernameSAN] make one, so a SAN in hand needs no further check.
type SAN struct {
	kind  SANKind
	value string
}

// Kind returns the kind of the name; empty for the zero SAN.
func (s SAN) Kind() SANKind { return s.kind }

// String returns the name itself, without its kind.
func (s SAN) String() string { return s.value }

// EmailSAN returns addr as an rfc822Name. It accepts an ASCII dot-atom before
// one @ and a lower-case host name after it, and never repairs: x509 encoders
// happily write NUL and newline into a name, and verifiers compare bytes.
func EmailSAN(addr string) (SAN, error) {
	if len(addr) > maxEmail {
		return SAN{}, fmt.Errorf("mail address has %d bytes, more than %d", len(addr), maxEmail)
	}
	local, domain, ok := strings.Cut(addr, "@")
	if !ok {
		return SAN{}, fmt.Errorf("mail address %q has no @", addr)
	}
	if err := checkLocalPart(local); err != nil {
		return SAN{}, fmt.Errorf("mail address %q: %w", addr, err)
	}
	if err := checkHost(domain); err != nil {
		return SAN{}, fmt.Errorf("mail address %q: %w", addr, err)
	}
	return SAN{SANEmail, addr}, nil
}

// checkLocalPart demands a Dot-string of RFC 5321, Section 4.1.2:
// "Dot-string = Atom *("." Atom)".
func checkLocalPart(s string) error {
	if s == "" || len(s) > maxLocalPart {
		return fmt.Errorf("the part before the @ has %d bytes, not 1 to %d", len(s), maxLocalPart)
	}
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return errors.New("empty atom before the @")
		}
		for i := range len(atom) {
			if c := atom[i]; !isAlphanumeric(c) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) < 0 {
				return fmt.Errorf("byte %#02x before the @", c)
			}
		}
	}
	return nil
}

// checkHost demands lower-case letter-digit-hyphen labels (RFC 1123, Section
// 2.1), at least one of them, no final dot. Lower case because names are
// compared byte for byte by those who verify signatures.
func checkHost(s string) error {
	if s == "" || len(s) > 253 {
		return fmt.Errorf("host name has %d bytes, not 1 to 253", len(s))
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("host name %q has the label %q", s, label)
		}
		for i := range len(label) {
			if c := label[i]; c != '-' && (!isAlphanumeric(c) || c >= 'A' && c <= 'Z') {
				return fmt.Errorf("host name %q has the byte %#02x", s, c)
			}
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// UsernameSAN returns "user!domain" as the otherName that Fulcio defines for
// names that are no mail addresses (1.3.6.1.4.1.57264.1.7). It accepts printable
// ASCII without space and exclamation mark before a lower-case host name: the
// part after the one "!" is who vouches for the part before it.
//
// Go, cosign and sigstore-go read such names; npm's and Python's clients do not.
func UsernameSAN(user, domain string) (SAN, error) {
	if n := len(user) + 1 + len(domain); user == "" || n > maxUsername {
		return SAN{}, fmt.Errorf("user name %q has %d bytes with its domain, not 1 to %d", user, n, maxUsername)
	}
	for i := range len(user) {
		if c := user[i]; c <= ' ' || c >= 0x7f || c == '!' {
			return SAN{}, fmt.Errorf("user name %q has the byte %#02x", user, c)
		}
	}
	if err := checkHost(domain); err != nil {
		return SAN{}, fmt.Errorf("user name %q: %w", user, err)
	}
	return SAN{SANUsername, user + "!" + domain}, nil
}

// URISAN returns uri as a uniformResourceIdentifier. It accepts an absolute
// https or spiffe URI in printable ASCII that means the same to every parser:
// no user information, query or fragment, no "." or ".." segment, no escaped
// slash, dot, backslash or control character. A path must not start with two
// slashes; inside, Fulcio's names of GitLab pipelines have them.
func URISAN(uri string) (SAN, error) {
	if err := checkURI(uri); err != nil {
		return SAN{}, fmt.Errorf("URI %q: %w", uri, err)
	}
	return SAN{SANURI, uri}, nil
}

func checkURI(uri string) error {
	if len(uri) > maxURI {
		return fmt.Errorf("has %d bytes, more than %d", len(uri), maxURI)
	}
	for i := range len(uri) {
		if c := uri[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}?#", c) >= 0 {
			return fmt.Errorf("byte %#02x is not allowed", c)
		}
	}
	u, err := url.Parse(uri)
	if err != nil {
		return errors.New("does not parse")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "spiffe":
		return fmt.Errorf("scheme %q is neither https nor spiffe", u.Scheme)
	case u.User != nil:
		return errors.New("has user information")
	case u.Opaque != "" || !strings.HasPrefix(uri, u.Scheme+"://"+u.Host):
		return errors.New("has no authority part")
	case u.String() != uri:
		return errors.New("is not in the form that it would be written in")
	case strings.HasSuffix(u.Host, ":"):
		return errors.New("has an empty port")
	case u.Scheme == "spiffe" && u.Port() != "":
		return errors.New("a spiffe trust domain has no port")
	}
	if err := checkHost(u.Hostname()); err != nil {
		return err
	}
	return checkPath(u.EscapedPath())
}

func checkPath(path string) error {
	if strings.HasPrefix(path, "//") {
		return errors.New("the path starts with two slashes")
	}
	for s := range strings.SplitSeq(path, "/") {
		if s == "." || s == ".." {
			return fmt.Errorf("segment %q in the path", s)
		}
		for ; ; s = s[3:] {
			at := strings.IndexByte(s, '%')
			if at < 0 {
				break
			}
			s = s[at:]
			// url.Parse has checked that two hexadecimal digits follow.
			switch esc := strings.ToLower(s[1:3]); {
			case esc == "2f", esc == "2e", esc == "5c", esc < "20", esc == "7f":
				return fmt.Errorf("escape %q in the path", s[:3])
			}
		}
	}
	return nil
}
