package pkcs11

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"

	p11 "github.com/miekg/pkcs11"
)

// Library is what a PKCS#11 library is, by its file and by its own words.
type Library struct {
	// Path is the file that is loaded, symbolic links resolved.
	Path string
	// SHA256 is the digest of that file, in hex.
	SHA256 string
	// Manufacturer, Description, Version and Cryptoki are the library's words.
	Manufacturer, Description, Version, Cryptoki string
}

// Entry is a token that a library offers.
type Entry struct {
	Slot                               uint
	Label, Manufacturer, Model, Serial string
	Firmware, Hardware                 string
	// Initialized is false for a token that has no label and no PIN yet.
	Initialized bool
	// PIN says in words how the user's PIN stands; empty when nothing is wrong.
	PIN string
	// URI names the token alone (RFC 7512).
	URI string

	flags, maxSessions uint
}

// Flag is a boolean attribute of an object.
type Flag struct {
	// Name is the attribute's, such as CKA_SENSITIVE.
	Name string
	// Value counts only if Known: not every token tells every attribute.
	Value, Known bool
}

func (f Flag) String() string {
	switch {
	case !f.Known:
		return "not told"
	case f.Value:
		return "true"
	default:
		return "false"
	}
}

// Object is a private key in a token.
type Object struct {
	Label string
	ID    []byte
	// Algorithm is ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096, or words
	// for a kind that Mayfly does not sign with.
	Algorithm string
	// Flags are what the token says about the key, in the order of keyFlags.
	Flags []Flag
	// Public is nil when the token tells the public key nowhere.
	Public crypto.PublicKey
	// PublicFrom says where the public key was found.
	PublicFrom string
	// Certificates are those that the token holds under the same id.
	Certificates []*x509.Certificate
	// URI names the key in its token (RFC 7512).
	URI string

	handle p11.ObjectHandle
}

// Flag returns an attribute by name.
func (o Object) Flag(name string) Flag {
	if i := slices.IndexFunc(o.Flags, func(f Flag) bool { return f.Name == name }); i >= 0 {
		return o.Flags[i]
	}
	return Flag{Name: name}
}

// Fingerprint is the SHA-256 of the SubjectPublicKeyInfo, in hex; empty when the
// public key is not known.
func (o Object) Fingerprint() string {
	if o.Public == nil {
		return ""
	}
	return fingerprint(o.Public)
}

// keyFlags are the attributes of a private key that somebody who trusts it wants
// to see.
var keyFlags = []struct {
	attribute uint
	name      string
}{
	{p11.CKA_TOKEN, "CKA_TOKEN"},
	{p11.CKA_PRIVATE, "CKA_PRIVATE"},
	{p11.CKA_SENSITIVE, "CKA_SENSITIVE"},
	{p11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE"},
	{p11.CKA_SIGN, "CKA_SIGN"},
	{p11.CKA_DECRYPT, "CKA_DECRYPT"},
	{p11.CKA_UNWRAP, "CKA_UNWRAP"},
	{p11.CKA_DERIVE, "CKA_DERIVE"},
	{p11.CKA_MODIFIABLE, "CKA_MODIFIABLE"},
	{p11.CKA_LOCAL, "CKA_LOCAL"},
	{p11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE"},
	{p11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE"},
	{p11.CKA_ALWAYS_AUTHENTICATE, "CKA_ALWAYS_AUTHENTICATE"},
}

// CheckModule refuses a library that others than root could have changed. It
// loads nothing.
func CheckModule(path string) error {
	_, err := checkModule(path)
	return err
}

// CheckURI refuses a description of a token that OpenToken would refuse.
func (c TokenConfig) CheckURI() error {
	_, err := c.want()
	return err
}

// maxLibrary bounds what is hashed; vendors' libraries have tens of megabytes.
const maxLibrary = 1 << 30

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(f, maxLibrary+1)); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	} else if n > maxLibrary {
		return "", fmt.Errorf("%s is longer than %d bytes", path, maxLibrary)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func version(v p11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Flags of CK_TOKEN_INFO that miekg/pkcs11 names, in words. The order is that of
// urgency.
func pinWords(flags uint) string {
	switch {
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return "the user PIN is locked"
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return "one more wrong PIN locks the token"
	case flags&p11.CKF_USER_PIN_TO_BE_CHANGED != 0:
		return "the user PIN must be changed before it is good for anything"
	case flags&p11.CKF_USER_PIN_INITIALIZED == 0:
		return "no user PIN was set"
	case flags&p11.CKF_USER_PIN_COUNT_LOW != 0:
		return "a wrong PIN was tried since the last login"
	default:
		return ""
	}
}
