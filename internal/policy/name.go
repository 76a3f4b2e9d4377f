package policy

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/mayfly-ca/mayfly/ca"
)

// Bounds on what rules make, in bytes.
const (
	// maxExtension is as long as the longest name may be.
	maxExtension = 2048
	// maxSegments bounds the parts that uri() takes.
	maxSegments = 8
)

// nameError says that a constructor was given something it cannot make a name
// of. The identity is refused: a next rule must not get a second try at it.
type nameError struct{ err error }

// guestMark is in the user principal name that Entra ID gives to visitors:
// "alice_partner.example#EXT#@corp.example", which is in our domain and not ours.
const guestMark = "#ext#"

// errGuest refuses such names.
var errGuest = errors.New("a guest from another directory")

func (e *nameError) Error() string { return e.err.Error() }

func (e *nameError) Unwrap() error { return e.err }

func refuseName(format string, args ...any) ref.Val {
	return types.WrapErr(&nameError{fmt.Errorf(format, args...)})
}

// The types that only constructors make: a name, and a path whose slashes
// separate segments.
var (
	nameType = types.NewOpaqueType("mayfly.name")
	pathType = types.NewOpaqueType("mayfly.path")
)

// opaque is a value that rules can pass on but not look into.
type opaque struct {
	typ  *types.Type
	san  ca.SAN
	path []string
}

// ConvertToNative implements ref.Val.
func (o *opaque) ConvertToNative(reflect.Type) (any, error) {
	return nil, errors.New("a " + o.typ.TypeName() + " has no native form")
}

// ConvertToType implements ref.Val: the text of a name is what string() gives.
func (o *opaque) ConvertToType(t ref.Type) ref.Val {
	if t == types.StringType && o.typ == nameType {
		return types.String(o.san.String())
	}
	return types.MaybeNoSuchOverloadErr(o)
}

// Equal implements ref.Val.
func (o *opaque) Equal(other ref.Val) ref.Val {
	x, ok := other.(*opaque)
	return types.Bool(ok && o.typ == x.typ && o.san == x.san && slices.Equal(o.path, x.path))
}

// Type implements ref.Val.
func (o *opaque) Type() ref.Type { return o.typ }

// Value implements ref.Val.
func (o *opaque) Value() any { return o.san }

func asName(san ca.SAN, err error) ref.Val {
	if err != nil {
		return types.WrapErr(&nameError{err})
	}
	return &opaque{typ: nameType, san: san}
}

// foldEmail returns an address in lower case: directories hand out addresses in
// the case they were typed in, and verifiers compare bytes. Anything but ASCII
// is refused before folding, for the Kelvin sign folds to "k".
func foldEmail(addr string) (ca.SAN, error) {
	for i := range len(addr) {
		if addr[i] >= utf8.RuneSelf {
			return ca.SAN{}, fmt.Errorf("mail address %q is not ASCII", addr)
		}
	}
	if addr = strings.ToLower(addr); strings.Contains(addr, guestMark) {
		return ca.SAN{}, fmt.Errorf("mail address %q: %w", addr, errGuest)
	}
	return ca.EmailSAN(addr)
}

func makeEmail(arg ref.Val) ref.Val {
	addr, ok := arg.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(arg)
	}
	return asName(foldEmail(string(addr)))
}

func makeUsername(user, domain ref.Val) ref.Val {
	u, ok := user.(types.String)
	d, ok2 := domain.(types.String)
	if !ok || !ok2 {
		return types.MaybeNoSuchOverloadErr(user)
	}
	return asName(ca.UsernameSAN(string(u), string(d)))
}

// makeSPIFFE takes a SPIFFE ID as it is. SPIFFE-ID, Section 2.2: "Path segments
// are composed of letters, numbers, dots, dashes, and underscores [...] path
// MUST NOT include a trailing /", and Section 2.1 bounds the trust domain, which
// may have underscores that no host name has: those are refused by ca.
func makeSPIFFE(arg ref.Val) ref.Val {
	id, ok := arg.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(arg)
	}
	rest, ok := strings.CutPrefix(string(id), "spiffe://")
	domain, path, _ := strings.Cut(rest, "/")
	if !ok || domain == "" || path == "" {
		return refuseName("%q is not a SPIFFE ID of a workload", string(id))
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || isDots(segment) || strings.ContainsFunc(segment, notSPIFFE) {
			return refuseName("SPIFFE ID %q has the segment %q", string(id), segment)
		}
	}
	return asName(ca.URISAN(string(id)))
}

func notSPIFFE(r rune) bool { return !isAlphanumeric(r) && !strings.ContainsRune("._-", r) }

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func isDots(segment string) bool { return segment == "." || segment == ".." }

// makeURI puts a URI together from a base that the administrator wrote and
// segments that tokens fill; with one argument it takes a whole URI as it is.
// The configuration's prefixes bound both.
func makeURI(args ...ref.Val) ref.Val {
	base, ok := args[0].(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	if len(args) == 1 {
		return asName(wholeURI(string(base)))
	}
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(string(base), "/"))
	for _, arg := range args[1:] {
		segments := []string{}
		switch v := arg.(type) {
		case types.String:
			segments = append(segments, string(v))
		case *opaque:
			segments = v.path
		}
		if len(segments) == 0 {
			return types.MaybeNoSuchOverloadErr(arg)
		}
		for _, s := range segments {
			if err := writeSegment(&b, s); err != nil {
				return types.WrapErr(&nameError{err})
			}
		}
	}
	return asName(ca.URISAN(b.String()))
}

// wholeURI takes a URI as it is. Only workflow() makes names with two slashes in
// the path.
func wholeURI(uri string) (ca.SAN, error) {
	if _, rest, _ := strings.Cut(uri, "://"); strings.Contains(rest, "//") {
		return ca.SAN{}, fmt.Errorf("URI %q has an empty segment", uri)
	}
	return ca.URISAN(uri)
}

// makePath says that the slashes of a claim separate segments.
func makePath(arg ref.Val) ref.Val {
	s, ok := arg.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(arg)
	}
	return &opaque{typ: pathType, path: strings.Split(string(s), "/")}
}

// makeWorkflow names a pipeline as GitHub and GitLab do, "path@ref". Git allows
// "@" in the names of branches, and a branch "x@refs/heads/main" would make a
// name that ends like the one of main: there must be one "@" only. GitLab writes
// an empty segment between project and file, which is allowed once.
func makeWorkflow(base, value ref.Val) ref.Val {
	b, ok := base.(types.String)
	v, ok2 := value.(types.String)
	if !ok || !ok2 {
		return types.MaybeNoSuchOverloadErr(value)
	}
	file, gitRef, ok := strings.Cut(string(v), "@")
	if !ok || strings.Contains(gitRef, "@") {
		return refuseName("workflow %q does not have the form path@ref with one @", string(v))
	}
	project, file, gitlab := strings.Cut(file, "//")
	var out strings.Builder
	out.WriteString(strings.TrimSuffix(string(b), "/"))
	parts := []string{project}
	if gitlab {
		parts = append(parts, file)
	}
	for i, part := range parts {
		if i > 0 {
			out.WriteByte('/')
		}
		for s := range strings.SplitSeq(part, "/") {
			if err := writeSegment(&out, s); err != nil {
				return types.WrapErr(&nameError{fmt.Errorf("workflow %q: %w", string(v), err)})
			}
		}
	}
	sep := byte('@')
	for s := range strings.SplitSeq(gitRef, "/") {
		if err := writeEscaped(&out, sep, s); err != nil {
			return types.WrapErr(&nameError{fmt.Errorf("workflow %q: %w", string(v), err)})
		}
		sep = '/'
	}
	return asName(ca.URISAN(out.String()))
}

func writeSegment(b *strings.Builder, s string) error { return writeEscaped(b, '/', s) }

// writeEscaped appends a segment after a separator, percent-encoding what has a
// meaning in URIs. RFC 3986, Section 3.3: "segment = *pchar"; "@" is a pchar but
// escaped nevertheless, because verifiers cut names of pipelines there.
func writeEscaped(b *strings.Builder, sep byte, s string) error {
	switch {
	case s == "" || isDots(s):
		return fmt.Errorf("segment %q", s)
	case strings.ContainsAny(s, `/\`):
		return fmt.Errorf("slash in the segment %q; path() says that slashes separate segments", s)
	}
	if err := checkText(s); err != nil {
		return fmt.Errorf("segment %q: %w", s, err)
	}
	b.WriteByte(sep)
	for i := range len(s) {
		if c := s[i]; isAlphanumeric(rune(c)) || strings.IndexByte("-._~!$&'()*+,;=:", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(b, "%%%02X", c)
		}
	}
	return nil
}

// checkText refuses characters that nobody sees: what a person reads must be
// what a program compares. Category Cf has the zero-width and the bidirectional
// ones.
func checkText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("not UTF-8")
	}
	for _, r := range s {
		if r >= ' ' && r < 0x7f {
			continue
		}
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co) {
			return fmt.Errorf("invisible character %U", r)
		}
	}
	return nil
}

// checkExtension refuses values that an extension must not carry. The deprecated
// ones, 2 to 6, are raw bytes in the certificate, which readers print as they are.
func checkExtension(e ca.Extension) error {
	if len(e.Value) > maxExtension {
		return fmt.Errorf("extension %d has %d bytes, more than %d", e.Number, len(e.Value), maxExtension)
	}
	if err := checkText(e.Value); err != nil {
		return fmt.Errorf("extension %d: %w", e.Number, err)
	}
	return nil
}

// mayName refuses names that the issuer must not give. It runs after every
// evaluation, whatever the rule says.
func (i *Issuer) mayName(san ca.SAN) error {
	name := san.String()
	allowed := false
	switch san.Kind() {
	case ca.SANEmail:
		_, domain, _ := strings.Cut(name, "@")
		allowed = slices.ContainsFunc(i.EmailDomains, func(d string) bool { return domainMatches(d, domain) })
	case ca.SANUsername:
		_, domain, _ := strings.Cut(name, "!")
		allowed = slices.ContainsFunc(i.UsernameDomains, func(d string) bool { return domainMatches(d, domain) })
	case ca.SANURI:
		allowed = slices.ContainsFunc(i.URIPrefixes, func(prefix string) bool {
			return len(name) > len(prefix) && strings.HasPrefix(name, prefix)
		})
	}
	if !allowed {
		return ca.Refuse(ca.KindDenied, ca.ReasonSANNotAllowed, "issuer %q may not vouch for the %s %q", i.Name, san.Kind(), name)
	}
	return nil
}

func domainMatches(allowed, domain string) bool {
	if parent, ok := strings.CutPrefix(allowed, "*"); ok { // ".corp.example"
		return len(domain) > len(parent) && strings.HasSuffix(domain, parent)
	}
	return domain == allowed
}

// address returns a URL without its scheme and final slash, and its origin.
func address(issuerURL string) (host, origin string) {
	u, err := url.Parse(issuerURL)
	if err != nil {
		return "", ""
	}
	return strings.TrimSuffix(u.Host+u.EscapedPath(), "/"), u.Scheme + "://" + u.Host
}
