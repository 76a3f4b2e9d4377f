package pkcs11

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// URI names a token, or a key in one, as RFC 7512 writes it. An empty field was
// not said and matches everything: an attribute with an empty value is refused,
// because it would look like a condition and be none.
//
// The zero URI is valid and prints as "pkcs11:".
type URI struct {
	// Token, Manufacturer, Model and Serial are what the token says about
	// itself (CK_TOKEN_INFO), without the blanks that fill the fields.
	Token, Manufacturer, Model, Serial string
	// SlotID is the slot; nil is any. Slots move when devices are plugged in
	// or the module starts anew, so it is no way to name a token for long.
	SlotID *uint
	// LibraryDescription, LibraryManufacturer and LibraryVersion are what the
	// module says about itself (CK_INFO).
	LibraryDescription, LibraryManufacturer, LibraryVersion string
	// Object is CKA_LABEL and ID is CKA_ID.
	Object string
	ID     []byte
	// Type is CKA_CLASS: private, public, cert, secret-key or data.
	Type string
	// ModulePath is the library of the token, and PINSource the file with its
	// PIN: both absolute, without "file:".
	ModulePath, PINSource string
	// Vendor and VendorQuery have the attributes that begin with "x-", of the
	// path and of the query, in the order given. They decide nothing here.
	Vendor, VendorQuery []URIAttribute
}

// URIAttribute is an attribute that RFC 7512 leaves to vendors.
type URIAttribute struct{ Name, Value string }

const (
	uriScheme = "pkcs11:"
	// maxURI is far above what all the attributes need.
	maxURI = 4096
)

// The fields of CK_TOKEN_INFO and CK_INFO have fixed sizes. A longer value can
// match nothing, so it is a mistake that is better found here.
const (
	sizeLabel  = 32 // also of manufacturers and descriptions
	sizeSerial = 16 // also of models
)

// RFC 7512, Section 2.3: the characters that need no percent-encoding, beside
// letters and digits, are "unreserved", those of pk11-res-avail, and
//
//	pk11-path-res-avail  = pk11-res-avail / "&"
//	pk11-query-res-avail = pk11-res-avail / "/" / "?" / "|"
const (
	uriAvailable      = "-._~" + ":[]@!$'()*+,="
	uriPathAvailable  = uriAvailable + "&"
	uriQueryAvailable = uriAvailable + "/?|"
)

var uriTypes = []string{"private", "public", "cert", "secret-key", "data"}

// ParseURI reads a PKCS#11 URI, strictly: what it does not know, what is said
// twice and what could match nothing is an error. Errors never repeat a value:
// somebody may have written a PIN into the URI.
func ParseURI(text string) (URI, error) {
	rest, ok := strings.CutPrefix(text, uriScheme)
	switch {
	case !ok:
		return URI{}, errors.New(`PKCS#11 URI does not begin with "pkcs11:"`)
	case len(text) > maxURI:
		return URI{}, fmt.Errorf("PKCS#11 URI of %d bytes is longer than %d", len(text), maxURI)
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	var u URI
	if err := eachAttribute(path, ";", uriPathAvailable, u.setPath); err != nil {
		return URI{}, err
	}
	if hasQuery && query == "" {
		return URI{}, errors.New("PKCS#11 URI ends in a question mark")
	}
	if err := eachAttribute(query, "&", uriQueryAvailable, u.setQuery); err != nil {
		return URI{}, err
	}
	return u, nil
}

// eachAttribute calls set for every attribute of a component, which is said
// once.
func eachAttribute(component, separator, available string, set func(name, value string) error) error {
	if component == "" {
		return nil
	}
	seen := make(map[string]bool)
	for i, attribute := range strings.Split(component, separator) {
		name, raw, ok := strings.Cut(attribute, "=")
		if !ok || !validName(name) {
			return fmt.Errorf("part %d between the %q of the PKCS#11 URI is not name=value", i+1, separator)
		}
		if seen[name] {
			return fmt.Errorf("%s is in the PKCS#11 URI twice", name)
		}
		seen[name] = true
		value, err := unescape(raw, available)
		if err == nil && value == "" {
			err = errors.New("is empty: leave the attribute out to match anything")
		}
		if err == nil {
			err = set(name, value)
		}
		if err != nil {
			return fmt.Errorf("%s of the PKCS#11 URI %w", name, err)
		}
	}
	return nil
}

// validName says whether name could be the name of an attribute, so that it may
// appear in an error.
//
//	pk11-v-attr-nm-char = ALPHA / DIGIT / "-" / "_"
func validName(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return !alphanumeric(r) && r != '-' && r != '_'
	})
}

func alphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

func (u *URI) setPath(name, value string) error {
	if name == "id" {
		u.ID = []byte(value)
		return nil
	}
	if err := plainText(value); err != nil {
		return err
	}
	switch name {
	case "token":
		return setSized(&u.Token, value, sizeLabel)
	case "manufacturer":
		return setSized(&u.Manufacturer, value, sizeLabel)
	case "model":
		return setSized(&u.Model, value, sizeSerial)
	case "serial":
		return setSized(&u.Serial, value, sizeSerial)
	case "library-description":
		return setSized(&u.LibraryDescription, value, sizeLabel)
	case "library-manufacturer":
		return setSized(&u.LibraryManufacturer, value, sizeLabel)
	case "library-version":
		return setVersion(&u.LibraryVersion, value)
	case "slot-id":
		return setNumber(&u.SlotID, value)
	case "object":
		u.Object = value
		return nil
	case "type":
		if !slices.Contains(uriTypes, value) {
			return fmt.Errorf("is none of %s", strings.Join(uriTypes, ", "))
		}
		u.Type = value
		return nil
	case "slot-description", "slot-manufacturer":
		return errors.New("is refused: slots move, name the token by token, serial, manufacturer and model")
	}
	return setVendor(&u.Vendor, name, value)
}

func (u *URI) setQuery(name, value string) error {
	if name == "pin-value" {
		return errors.New("is refused: a PIN does not belong in a configuration; put it in a file and name that by pin-source")
	}
	if err := plainText(value); err != nil {
		return err
	}
	switch name {
	case "module-path":
		return setFile(&u.ModulePath, value)
	case "pin-source":
		// RFC 7512, Section 2.4, has "file:" URIs and, on some systems,
		// "|program": no program is run from a configuration.
		if strings.HasPrefix(value, "|") {
			return errors.New("is refused: it names a program to run, and a file is needed")
		}
		return setFile(&u.PINSource, strings.TrimPrefix(strings.TrimPrefix(value, "file://"), "file:"))
	case "module-name":
		return errors.New("is refused: libraries are not searched for; use module-path")
	}
	return setVendor(&u.VendorQuery, name, value)
}

// plainText refuses what no label is: RFC 7512, Section 2.3, has strings in
// UTF-8, and C ends them at a zero byte.
func plainText(value string) error {
	if !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("is not printable UTF-8")
	}
	return nil
}

func setSized(field *string, value string, size int) error {
	if len(value) > size {
		return fmt.Errorf("has %d bytes and can match nothing: the field has %d", len(value), size)
	}
	// Fields are filled with blanks, which are no part of the value.
	if strings.HasSuffix(value, " ") {
		return errors.New("ends in a blank and can match nothing: blanks fill the field")
	}
	*field = value
	return nil
}

// setVersion wants CK_VERSION.
//
//	pk11-lib-ver = "library-version" "=" 1*DIGIT [ "." 1*DIGIT ]
func setVersion(field *string, value string) error {
	major, minor, dotted := strings.Cut(value, ".")
	if !canonicalNumber(major, 8) || dotted && !canonicalNumber(minor, 8) {
		return errors.New("is not a version such as 2 or 2.40")
	}
	*field = value
	return nil
}

func setNumber(field **uint, value string) error {
	if !canonicalNumber(value, strconv.IntSize) {
		return errors.New("is not a decimal number")
	}
	n, err := strconv.ParseUint(value, 10, strconv.IntSize)
	*field = new(uint(n))
	return err
}

// canonicalNumber says whether value is a decimal number that is written in the
// one way that we print it.
func canonicalNumber(value string, bits int) bool {
	n, err := strconv.ParseUint(value, 10, bits)
	return err == nil && strconv.FormatUint(n, 10) == value
}

// setFile wants an absolute path: a relative one would depend on where the
// program was started.
func setFile(field *string, value string) error {
	if !filepath.IsAbs(value) {
		return errors.New("is not an absolute path")
	}
	*field = value
	return nil
}

// setVendor keeps what is marked as an extension. Another unknown name is more
// likely a typing error, and ignoring it would match more than was meant.
func setVendor(field *[]URIAttribute, name, value string) error {
	if !strings.HasPrefix(name, "x-") {
		return errors.New("is not an attribute of RFC 7512 for this place, nor one that begins with x-")
	}
	*field = append(*field, URIAttribute{name, value})
	return nil
}

// unescape decodes %XX and nothing else: "+" is a plus. A character that should
// have been encoded is refused.
func unescape(raw, available string) (string, error) {
	var value strings.Builder
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '%':
			if i+3 > len(raw) {
				return "", errors.New("ends within a percent-encoded byte")
			}
			b, err := hex.DecodeString(raw[i+1 : i+3])
			if err != nil {
				return "", errors.New("has a percent sign without two hexadecimal digits; a percent sign itself is %25")
			}
			value.WriteByte(b[0])
			i += 2
		case alphanumeric(rune(c)) || strings.IndexByte(available, c) >= 0:
			value.WriteByte(c)
		default:
			return "", fmt.Errorf("has a character at offset %d that must be percent-encoded: %%%02X", i, c)
		}
	}
	return value.String(), nil
}

// String prints the URI in the one form that ParseURI returns it for: the order
// is that of p11tool, so that the two can be compared by eye.
func (u URI) String() string {
	var path []string
	add := func(name, value string) {
		if value != "" {
			path = append(path, name+"="+escape(value, uriPathAvailable))
		}
	}
	add("library-description", u.LibraryDescription)
	add("library-manufacturer", u.LibraryManufacturer)
	add("library-version", u.LibraryVersion)
	if u.SlotID != nil {
		add("slot-id", strconv.FormatUint(uint64(*u.SlotID), 10))
	}
	add("model", u.Model)
	add("manufacturer", u.Manufacturer)
	add("serial", u.Serial)
	add("token", u.Token)
	if len(u.ID) > 0 {
		// Nothing in it is text, even where it could be read as such.
		path = append(path, "id="+escapeAll(u.ID))
	}
	add("object", u.Object)
	add("type", u.Type)
	for _, v := range u.Vendor {
		add(v.Name, v.Value)
	}
	text := uriScheme + strings.Join(path, ";")

	path = nil
	query := func(name, value string) {
		if value != "" {
			path = append(path, name+"="+escape(value, uriQueryAvailable))
		}
	}
	query("module-path", u.ModulePath)
	query("pin-source", u.PINSource)
	for _, v := range u.VendorQuery {
		query(v.Name, v.Value)
	}
	if len(path) > 0 {
		text += "?" + strings.Join(path, "&")
	}
	return text
}

func escape(value, available string) string {
	var text strings.Builder
	for i := range len(value) {
		if c := value[i]; alphanumeric(rune(c)) || strings.IndexByte(available, c) >= 0 {
			text.WriteByte(c)
		} else {
			fmt.Fprintf(&text, "%%%02X", c)
		}
	}
	return text.String()
}

func escapeAll(value []byte) string {
	var text strings.Builder
	for _, c := range value {
		fmt.Fprintf(&text, "%%%02X", c)
	}
	return text.String()
}

// idHint explains why a search for id may have found nothing: step-ca reads
// "id=7331" as the bytes 73 31, where RFC 7512 has the text "7331". It returns
// "" for an identifier that cannot be the one taken for the other. It is only a
// hint: to guess would be to use a key that nobody named.
func idHint(id []byte) string {
	decoded, err := hex.DecodeString(strings.TrimPrefix(string(id), "0x"))
	if err != nil || len(decoded) == 0 {
		return ""
	}
	return fmt.Sprintf("the id is the text %q; if the bytes %x are meant, write id=%s", id, decoded, escapeAll(decoded))
}
