package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// object reads all that a token tells about a private key.
func (v *visitor) object(handle p11.ObjectHandle) (Object, error) {
	o := Object{handle: handle}
	label, err := v.attribute(handle, p11.CKA_LABEL)
	if err != nil {
		return o, err
	}
	o.Label = string(label)
	if o.ID, err = v.attribute(handle, p11.CKA_ID); err != nil {
		return o, err
	}
	for _, f := range keyFlags {
		value, known, err := flag(v.lib, v.session, handle, f.attribute)
		if err != nil {
			return o, err
		}
		o.Flags = append(o.Flags, Flag{Name: f.name, Value: value, Known: known})
	}
	if err := v.kind(&o); err != nil {
		return o, err
	}
	if err := v.addPublic(&o); err != nil {
		return o, err
	}
	if a := algorithmOf(o.Public); a != "" {
		o.Algorithm = a
	}
	o.URI = v.keyURI(o)
	return o, nil
}

func (v *visitor) attribute(o p11.ObjectHandle, kind uint) ([]byte, error) {
	return attribute(v.lib, v.session, o, kind)
}

// kind reads of what type a key is. An RSA private key holds the public one, as
// a rule.
func (v *visitor) kind(o *Object) error {
	kind, err := v.attribute(o.handle, p11.CKA_KEY_TYPE)
	if err != nil {
		return err
	}
	is := func(k uint) bool { return bytes.Equal(kind, p11.NewAttribute(0, k).Value) }
	switch {
	case kind == nil:
		o.Algorithm = "of a type that the token does not tell"
	case is(p11.CKK_EC):
		o.Algorithm = "on an elliptic curve"
	case is(p11.CKK_RSA):
		o.Algorithm = "RSA"
		modulus, err := v.attribute(o.handle, p11.CKA_MODULUS)
		if err != nil {
			return err
		}
		exponent, err := v.attribute(o.handle, p11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return err
		}
		if key, err := parseRSA(modulus, exponent); err == nil {
			o.Public, o.PublicFrom = key, "private key"
		}
	default:
		o.Algorithm = fmt.Sprintf("of type %x", clip(kind))
	}
	return nil
}

// addPublic looks for the public key and for certificates. PKCS#11 v2.40,
// Section 4.9: CKA_ID is "intended as a means of distinguishing multiple
// public-key/private-key pairs held by the same subject", and the two halves
// and the certificate of a key share it.
func (v *visitor) addPublic(o *Object) error {
	label := o.Label
	if len(o.ID) > 0 {
		label = ""
	} else if label == "" {
		return nil // nothing connects it with anything
	}
	found, err := objects(v.lib, v.session, keyTemplate(p11.CKO_PUBLIC_KEY, label, o.ID))
	if err != nil {
		return err
	}
	for _, h := range found {
		// One that cannot be read is of a kind that nobody here signs with.
		if public, err := readPublic(v.lib, v.session, h); err == nil {
			o.Public, o.PublicFrom = public, "public key"
			break
		}
	}
	if found, err = objects(v.lib, v.session, keyTemplate(p11.CKO_CERTIFICATE, label, o.ID)); err != nil {
		return err
	}
	for _, h := range found {
		der, err := v.attribute(h, p11.CKA_VALUE)
		if err != nil {
			return err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // of another type
		}
		o.Certificates = append(o.Certificates, cert)
		if o.Public == nil && algorithmOf(cert.PublicKey) != "" {
			o.Public, o.PublicFrom = cert.PublicKey, "certificate"
		}
	}
	return nil
}

// algorithmOf names the kinds that Mayfly signs with; empty for others.
func algorithmOf(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return "ecdsa-p256"
		case elliptic.P384():
			return "ecdsa-p384"
		}
	case *rsa.PublicKey:
		switch k.N.BitLen() {
		case 2048, 3072, 4096:
			return fmt.Sprintf("rsa-%d", k.N.BitLen())
		}
	}
	return ""
}
