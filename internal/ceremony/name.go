package ceremony

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a name. The upper bounds of the attributes are those of X.520,
// which RFC 5280, Appendix A.1 repeats; AD CS and EJBCA enforce them.
const (
	maxName       = 1024
	maxAttributes = 16
)

// attribute is one type that a subject may hold.
type attribute struct {
	short string
	oid   asn1.ObjectIdentifier
	bound int
	// once forbids a second one: two common names mean that somebody pasted two
	// subjects.
	once bool
}

var attributes = []attribute{
	{"CN", asn1.ObjectIdentifier{2, 5, 4, 3}, 64, true},
	{"O", asn1.ObjectIdentifier{2, 5, 4, 10}, 64, true},
	{"OU", asn1.ObjectIdentifier{2, 5, 4, 11}, 64, false},
	{"C", asn1.ObjectIdentifier{2, 5, 4, 6}, 2, true},
	{"ST", asn1.ObjectIdentifier{2, 5, 4, 8}, 128, true},
	{"L", asn1.ObjectIdentifier{2, 5, 4, 7}, 128, true},
	{"DC", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, 63, false},
}

func attributeNames() string {
	var names []string
	for _, a := range attributes {
		names = append(names, a.short)
	}
	return strings.Join(names, ", ")
}

// Name is a subject that was parsed from text. The zero value is no name.
type Name struct {
	text string
	der  []byte
}

// String returns the name as RFC 4514 writes it, the most specific part first.
func (n Name) String() string { return n.text }

// DER returns the encoded Name. The caller may keep it.
func (n Name) DER() []byte { return slices.Clone(n.der) }

// IsZero reports that no name was parsed.
func (n Name) IsZero() bool { return len(n.der) == 0 }

// ParseName reads a subject such as "CN=Mayfly Issuing CA 1,O=Example Corp,C=DE":
// RFC 4514 without multi-valued parts, numeric types and values in #hex, with
// the attributes CN, O, OU, C, ST, L and DC, and with at least a CN, which is
// what every tool shows. Space beside a comma or an equals sign is refused
// rather than dropped, apart from one after the comma, as people write.
func ParseName(text string) (Name, error) {
	switch {
	case strings.TrimSpace(text) == "":
		return Name{}, errors.New("the subject is empty; write it like: CN=Mayfly Issuing CA 1,O=Example Corp")
	case len(text) > maxName:
		return Name{}, fmt.Errorf("the subject has %d bytes, more than %d", len(text), maxName)
	case strings.HasPrefix(text, "/"):
		return Name{}, fmt.Errorf("the subject %q is in OpenSSL's old form; write it like: CN=Mayfly Issuing CA 1,O=Example Corp", text)
	case !utf8.ValidString(text):
		return Name{}, errors.New("the subject is not UTF-8")
	}
	var parts []part
	for rest, more := text, true; more; {
		var p part
		var err error
		if p, rest, more, err = nextPart(rest); err != nil {
			return Name{}, fmt.Errorf("subject %q: %w", text, err)
		}
		if len(parts) == maxAttributes {
			return Name{}, fmt.Errorf("subject %q: more than %d parts", text, maxAttributes)
		}
		for _, earlier := range parts {
			if p.once && earlier.short == p.short {
				return Name{}, fmt.Errorf("subject %q: %s is given twice", text, p.short)
			}
		}
		parts = append(parts, p)
	}
	if !slices.ContainsFunc(parts, func(p part) bool { return p.short == "CN" }) {
		return Name{}, fmt.Errorf("subject %q: CN is missing", text)
	}
	return newName(parts)
}

// part is one attribute with its value.
type part struct {
	attribute
	value string
}

// nextPart reads one TYPE=value and reports whether a comma follows it.
func nextPart(text string) (p part, rest string, more bool, err error) {
	kind, text, found := strings.Cut(strings.TrimPrefix(text, " "), "=")
	if !found {
		return p, "", false, fmt.Errorf("%q is not of the form TYPE=value", kind)
	}
	i := slices.IndexFunc(attributes, func(a attribute) bool { return strings.EqualFold(a.short, kind) })
	if i < 0 {
		return p, "", false, fmt.Errorf("unknown attribute %q; there are %s", kind, attributeNames())
	}
	p.attribute = attributes[i]
	if p.value, rest, more, err = nextValue(text); err != nil {
		return p, "", false, fmt.Errorf("%s: %w", p.short, err)
	}
	return p, rest, more, p.check()
}

// nextValue reads a value up to an unescaped comma.
//
// RFC 4514, Section 2.4: "- a space (' ' U+0020) or number sign ('#' U+0023)
// occurring at the beginning of the string; - a space (' ' U+0020) character
// occurring at the end of the string; - one of the characters '"', '+', ',',
// ';', '<', '>', or '\' [...]; - the null (U+0000) character" must be escaped.
func nextValue(text string) (value, rest string, more bool, err error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == ',':
			return b.String(), text[i+1:], true, nil
		case c == '\\':
			n, err := unescape(&b, text[i+1:])
			if err != nil {
				return "", "", false, err
			}
			i += n
		case strings.IndexByte(`"+;<>`, c) >= 0, c == '#' && i == 0, c == ' ' && i == 0:
			return "", "", false, fmt.Errorf("%q must be written %q here", c, `\`+string(rune(c)))
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", false, nil
}

// unescape writes the character that follows a backslash and returns how much
// of the text it took.
func unescape(b *strings.Builder, text string) (int, error) {
	if text != "" && strings.IndexByte(` "#+,;<=>\`, text[0]) >= 0 {
		b.WriteByte(text[0])
		return 1, nil
	}
	if len(text) >= 2 {
		if raw, err := hex.DecodeString(text[:2]); err == nil {
			b.Write(raw)
			return 2, nil
		}
	}
	return 0, errors.New(`a backslash must be followed by one of the characters  "#+,;<=>\ or by two hexadecimal digits`)
}

func (p part) check() error {
	switch {
	case p.value == "":
		return fmt.Errorf("%s is empty", p.short)
	case !utf8.ValidString(p.value):
		return fmt.Errorf("%s is not UTF-8", p.short)
	case utf8.RuneCountInString(p.value) > p.bound:
		return fmt.Errorf("%s has %d characters, more than %d", p.short, utf8.RuneCountInString(p.value), p.bound)
	case strings.ContainsFunc(p.value, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%s %q holds a character that cannot be printed", p.short, p.value)
	case p.value != strings.TrimSpace(p.value):
		return fmt.Errorf("%s %q begins or ends with a space", p.short, p.value)
	case p.short == "C" && (len(p.value) != 2 || strings.Trim(p.value, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != ""):
		return fmt.Errorf("country C=%q is not a code of two capital letters", p.value)
	case p.short == "DC" && strings.ContainsFunc(p.value, func(r rune) bool { return r > unicode.MaxASCII }):
		return fmt.Errorf("DC %q is not ASCII", p.value)
	}
	return nil
}

// encoded returns the value as RFC 5280 wants it: a country is a
// PrintableString, a domain component an IA5String, and for the rest, Section
// 4.1.2.4: "CAs MUST use either PrintableString or UTF8String".
func (p part) encoded() asn1.RawValue {
	tag := asn1.TagUTF8String
	switch p.short {
	case "C":
		tag = asn1.TagPrintableString
	case "DC":
		tag = asn1.TagIA5String
	}
	return asn1.RawValue{Tag: tag, Bytes: []byte(p.value)}
}

// newName encodes the parts.
//
//	RDNSequence ::= SEQUENCE OF RelativeDistinguishedName
//	RelativeDistinguishedName ::= SET SIZE (1..MAX) OF AttributeTypeAndValue
//
// RFC 4514, Section 2.1: "the output consists of the string encodings of each
// RelativeDistinguishedName in the RDNSequence [...], starting with the last
// element of the sequence and moving backwards toward the first."
func newName(parts []part) (Name, error) {
	type typeAndValue struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type relativeSET []typeAndValue // encoding/asn1 makes a SET of a type with this ending
	var sequence []relativeSET
	var texts []string
	for _, p := range parts {
		texts = append(texts, p.short+"="+escape(p.value))
		sequence = append(sequence, relativeSET{{p.oid, p.encoded()}})
	}
	slices.Reverse(sequence)
	der, err := asn1.Marshal(sequence)
	if err != nil {
		return Name{}, fmt.Errorf("encoding the subject: %w", err)
	}
	return Name{text: strings.Join(texts, ","), der: der}, nil
}

// escape is the reverse of nextValue.
func escape(value string) string {
	var b strings.Builder
	for i, r := range value {
		if strings.ContainsRune(`"+,;<>\`, r) || i == 0 && r == '#' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// ShowName writes an encoded name for people. Unlike crypto/x509/pkix it knows
// domain components, which every root of AD CS has; what it does not know, it
// leaves to that package. Its result is for reading and not for comparing.
func ShowName(der []byte) string {
	var sequence pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &sequence); err != nil || len(rest) > 0 {
		return "a malformed name"
	}
	var parts []string
	for _, set := range slices.Backward(sequence) {
		text := pkix.RDNSequence{set}.String()
		if value, ok := set[0].Value.(string); ok && len(set) == 1 {
			for _, a := range attributes {
				if a.oid.Equal(set[0].Type) {
					text = a.short + "=" + escape(value)
				}
			}
		}
		parts = append(parts, text)
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.Join(parts, ","))
}
