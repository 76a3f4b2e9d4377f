package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxListed bounds what an error lists, maxObjects what a search returns.
const (
	maxListed  = 32
	maxObjects = 1000
)

// present is a token that a slot holds now.
type present struct {
	slot uint
	info p11.TokenInfo
}

func (p present) uri() URI {
	return URI{
		Token:        trim(p.info.Label),
		Manufacturer: trim(p.info.ManufacturerID),
		Serial:       trim(p.info.SerialNumber),
		Model:        trim(p.info.Model),
	}
}

// trim removes the padding of a CK_TOKEN_INFO field: blanks by the standard,
// zero bytes by some libraries.
func trim(field string) string { return strings.TrimRight(field, " \x00") }

// tokensPresent returns the tokens that are initialised.
func tokensPresent(a api) ([]present, error) {
	ids, err := a.GetSlotList(true)
	if err != nil {
		return nil, &callError{"C_GetSlotList", err}
	}
	var found []present
	for _, id := range ids {
		info, err := a.GetTokenInfo(id)
		if err != nil {
			// One broken card must not hide the others.
			if c := classify(&callError{"C_GetTokenInfo", err}); c == classDevice || c == classUnknown {
				continue
			}
			return nil, &callError{"C_GetTokenInfo", err}
		}
		if info.Flags&p11.CKF_TOKEN_INITIALIZED != 0 {
			found = append(found, present{id, info})
		}
	}
	return found, nil
}

// matches reports whether a token is the one that want describes. Fields that
// want leaves empty match everything.
func (u URI) matches(p present) bool {
	have := p.uri()
	return (u.Token == "" || u.Token == have.Token) &&
		(u.Manufacturer == "" || u.Manufacturer == have.Manufacturer) &&
		(u.Serial == "" || u.Serial == have.Serial) &&
		(u.Model == "" || u.Model == have.Model) &&
		(u.SlotID == nil || *u.SlotID == p.slot)
}

// findToken returns the one token that want describes. Serial numbers alone do
// not tell tokens apart (every tpm2-pkcs11 token has the same), and slot numbers
// move, so everything that was said must match.
func findToken(a api, want URI) (present, error) {
	all, err := tokensPresent(a)
	if err != nil {
		return present{}, fmt.Errorf("looking for token %s: %w", want, err)
	}
	var matching []present
	for _, p := range all {
		if want.matches(p) {
			matching = append(matching, p)
		}
	}
	switch len(matching) {
	case 1:
		return matching[0], nil
	case 0:
		return present{}, fault(classDevice, "no token matches %s; the library shows %s", want, listTokens(all))
	default:
		return present{}, fault(classConfig, "%d tokens match %s, say which is meant: %s", len(matching), want, listTokens(matching))
	}
}

func listTokens(ts []present) string {
	var names []string
	for _, p := range ts {
		names = append(names, p.uri().String())
	}
	return list(names)
}

// list prints what was found for an error, within bounds.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	if n := len(names); n > maxListed {
		names = append(names[:maxListed:maxListed], fmt.Sprintf("and %d more", n-maxListed))
	}
	return strings.Join(names, ", ")
}

// objects returns all objects that match a template.
func objects(a api, s p11.SessionHandle, template []*p11.Attribute) ([]p11.ObjectHandle, error) {
	if err := a.FindObjectsInit(s, template); err != nil {
		return nil, &callError{"C_FindObjectsInit", err}
	}
	var found []p11.ObjectHandle
	for {
		some, _, err := a.FindObjects(s, 64)
		if err != nil {
			return nil, &callError{"C_FindObjects", err}
		}
		if len(some) == 0 {
			break
		}
		if found = append(found, some...); len(found) > maxObjects {
			return nil, fault(classConfig, "the token shows more than %d objects of one kind", maxObjects)
		}
	}
	if err := a.FindObjectsFinal(s); err != nil {
		return nil, &callError{"C_FindObjectsFinal", err}
	}
	return found, nil
}

// attribute returns the value of one attribute, nil if the object has none of
// that type or does not show it. Attributes are asked for one by one, because
// one that a token does not know spoils the answer for all.
func attribute(a api, s p11.SessionHandle, o p11.ObjectHandle, kind uint) ([]byte, error) {
	got, err := a.GetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(kind, nil)})
	switch {
	case errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)), errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_SENSITIVE)):
		return nil, nil
	case err != nil:
		return nil, &callError{"C_GetAttributeValue", err}
	case len(got) != 1:
		return nil, fault(classDevice, "C_GetAttributeValue returned %d values for one attribute", len(got))
	}
	return got[0].Value, nil
}

// flag returns a CK_BBOOL attribute and whether the object has it.
func flag(a api, s p11.SessionHandle, o p11.ObjectHandle, kind uint) (value, known bool, err error) {
	raw, err := attribute(a, s, o, kind)
	if err != nil || len(raw) != 1 {
		return false, false, err
	}
	return raw[0] != 0, true, nil
}

// objectURI names an object for an error.
func objectURI(a api, s p11.SessionHandle, o p11.ObjectHandle) string {
	u := URI{Type: "private"}
	if label, err := attribute(a, s, o, p11.CKA_LABEL); err == nil {
		u.Object = strings.ToValidUTF8(string(label), "?")
	}
	if id, err := attribute(a, s, o, p11.CKA_ID); err == nil {
		u.ID = id
	}
	return u.String()
}

// keyTemplate is what a private key is searched by.
func keyTemplate(class uint, label string, id []byte) []*p11.Attribute {
	t := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class)}
	if label != "" {
		t = append(t, p11.NewAttribute(p11.CKA_LABEL, label))
	}
	if len(id) > 0 {
		t = append(t, p11.NewAttribute(p11.CKA_ID, id))
	}
	return t
}

// errAbsent means that a token shows no such key.
var errAbsent = errors.New("the token holds no such private key")

// findKey returns the one private key with this label and id.
func findKey(a api, s p11.SessionHandle, label string, id []byte) (p11.ObjectHandle, error) {
	want := URI{Object: label, ID: id, Type: "private"}
	found, err := objects(a, s, keyTemplate(p11.CKO_PRIVATE_KEY, label, id))
	if err != nil {
		return 0, fmt.Errorf("looking for key %s: %w", want, err)
	}
	if len(found) == 1 {
		return found[0], nil
	}
	shown := found
	if len(found) == 0 {
		if shown, err = objects(a, s, keyTemplate(p11.CKO_PRIVATE_KEY, "", nil)); err != nil {
			return 0, fmt.Errorf("looking for key %s: %w", want, err)
		}
	}
	var names []string
	for _, o := range shown {
		if len(names) > maxListed {
			break
		}
		names = append(names, objectURI(a, s, o))
	}
	if len(found) == 0 {
		return 0, fmt.Errorf("%w: wanted %s%s, it shows %s", errAbsent, want, idHint(id), list(names))
	}
	return 0, fault(classConfig, "%d private keys match %s, say which is meant: %s", len(found), want, list(names))
}

var (
	oidP256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP384 = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
)

// readPublic returns the key of a public key object.
func readPublic(a api, s p11.SessionHandle, o p11.ObjectHandle) (crypto.PublicKey, error) {
	get := func(kinds ...uint) (values [][]byte, err error) {
		for _, k := range kinds {
			v, err := attribute(a, s, o, k)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		}
		return values, nil
	}
	kind, err := get(p11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(kind[0], p11.NewAttribute(0, uint(p11.CKK_EC)).Value):
		v, err := get(p11.CKA_EC_PARAMS, p11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		return parseEC(v[0], v[1])
	case bytes.Equal(kind[0], p11.NewAttribute(0, uint(p11.CKK_RSA)).Value):
		v, err := get(p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, err
		}
		return parseRSA(v[0], v[1])
	default:
		return nil, fmt.Errorf("key type %x is not supported: use ECDSA on P-256 or P-384, or RSA", kind[0])
	}
}

// parseEC reads CKA_EC_PARAMS, which here must name the curve, and CKA_EC_POINT.
//
// PKCS#11 v2.40, Section 2.3.3: CKA_EC_POINT is the "DER-encoding of ANSI X9.62
// ECPoint value Q", an OCTET STRING. Some libraries give the point itself: it
// begins with 04 as well, which is also the tag of an OCTET STRING, so the
// length decides.
func parseEC(params, point []byte) (*ecdsa.PublicKey, error) {
	var oid asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(params, &oid); err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("CKA_EC_PARAMS %x is not the name of a curve", clip(params))
	}
	var curve elliptic.Curve
	switch {
	case oid.Equal(oidP256):
		curve = elliptic.P256()
	case oid.Equal(oidP384):
		curve = elliptic.P384()
	default:
		return nil, fmt.Errorf("curve %v is not supported: use P-256 or P-384", oid)
	}
	if want := 1 + 2*((curve.Params().BitSize+7)/8); len(point) != want {
		in, inner := cryptobyte.String(point), cryptobyte.String(nil)
		if !in.ReadASN1(&inner, cbasn1.OCTET_STRING) || !in.Empty() || len(inner) != want {
			return nil, fmt.Errorf("CKA_EC_POINT %x is no point of %s", clip(point), curve.Params().Name)
		}
		point = inner
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("reading CKA_EC_POINT: %w", err)
	}
	return key, nil
}

func parseRSA(modulus, exponent []byte) (*rsa.PublicKey, error) {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if n.BitLen() < 1024 || n.BitLen() > 16384 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
		return nil, fmt.Errorf("modulus of %d bits with exponent of %d bits is no RSA key", n.BitLen(), e.BitLen())
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// clip bounds what an error repeats.
func clip(b []byte) []byte { return b[:min(len(b), 64)] }
