package pkcs11

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"math/big"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

func (f *fake) FindObjectsInit(s p11.SessionHandle, template []*p11.Attribute) error {
	session, end, err := f.begin("FindObjectsInit", s)
	if err != nil {
		return err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	session.search = nil
	for _, k := range f.keys {
		if k.absent || !f.loggedIn {
			continue
		}
		for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_PUBLIC_KEY} {
			if class == p11.CKO_PUBLIC_KEY && !k.public || !k.has(class, template) {
				continue
			}
			f.next++
			session.search = append(session.search, p11.ObjectHandle(f.next))
			f.alias[p11.ObjectHandle(f.next)] = k
		}
	}
	return nil
}

func (k *fakeKey) has(class uint, template []*p11.Attribute) bool {
	for _, a := range template {
		var have []byte
		switch a.Type {
		case p11.CKA_CLASS:
			have = p11.NewAttribute(0, class).Value
		case p11.CKA_LABEL:
			have = []byte(k.label)
		case p11.CKA_ID:
			have = k.id
		}
		if string(have) != string(a.Value) {
			return false
		}
	}
	return true
}

func (f *fake) FindObjects(s p11.SessionHandle, limit int) ([]p11.ObjectHandle, bool, error) {
	session, end, err := f.begin("FindObjects", s)
	if err != nil {
		return nil, false, err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(limit, len(session.search))
	found := session.search[:n]
	session.search = session.search[n:]
	return found, false, nil
}

func (f *fake) FindObjectsFinal(s p11.SessionHandle) error {
	_, end, err := f.begin("FindObjectsFinal", s)
	if err != nil {
		return err
	}
	end()
	return nil
}

func (f *fake) GetAttributeValue(s p11.SessionHandle, o p11.ObjectHandle, as []*p11.Attribute) ([]*p11.Attribute, error) {
	_, end, err := f.begin("GetAttributeValue", s)
	if err != nil {
		return nil, err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.alias[o]
	if k == nil {
		return nil, p11.Error(p11.CKR_OBJECT_HANDLE_INVALID)
	}
	value, ok := k.value(as[0].Type)
	if !ok {
		return nil, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)
	}
	return []*p11.Attribute{{Type: as[0].Type, Value: value}}, nil
}

func (k *fakeKey) value(kind uint) ([]byte, bool) {
	if v, ok := k.attributes[kind]; ok {
		return v, true
	}
	switch kind {
	case p11.CKA_LABEL:
		return []byte(k.label), true
	case p11.CKA_ID:
		return k.id, true
	}
	switch pub := k.private.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil {
			return nil, false
		}
		switch kind {
		case p11.CKA_KEY_TYPE:
			return p11.NewAttribute(0, uint(p11.CKK_EC)).Value, true
		case p11.CKA_EC_PARAMS:
			return curveOIDs[pub.Params().BitSize], true
		case p11.CKA_EC_POINT:
			if k.rawPoint {
				return point, true
			}
			var b cryptobyte.Builder
			b.AddASN1OctetString(point)
			return b.BytesOrPanic(), true
		}
	case *rsa.PublicKey:
		switch kind {
		case p11.CKA_KEY_TYPE:
			return p11.NewAttribute(0, uint(p11.CKK_RSA)).Value, true
		case p11.CKA_MODULUS:
			return pub.N.Bytes(), true
		case p11.CKA_PUBLIC_EXPONENT:
			return big.NewInt(int64(pub.E)).Bytes(), true
		}
	}
	return nil, false
}

func (f *fake) SignInit(s p11.SessionHandle, m []*p11.Mechanism, o p11.ObjectHandle) error {
	session, end, err := f.begin("SignInit", s)
	if err != nil {
		return err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.alias[o]
	switch {
	case session.active != nil:
		return p11.Error(p11.CKR_OPERATION_ACTIVE)
	case !f.loggedIn:
		return p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	case k == nil:
		return p11.Error(p11.CKR_KEY_HANDLE_INVALID)
	}
	session.active, session.mech, session.authed = k, m[0].Mechanism, false
	return nil
}

func (f *fake) Sign(s p11.SessionHandle, message []byte) ([]byte, error) {
	session, end, err := f.begin("Sign", s)
	if err != nil {
		return nil, err
	}
	defer end()
	f.mu.Lock()
	k := session.active
	session.active = nil
	bend := f.bend
	authed := session.authed
	f.mu.Unlock()
	if k == nil {
		return nil, p11.Error(p11.CKR_OPERATION_NOT_INITIALIZED)
	}
	if string(k.attributes[p11.CKA_ALWAYS_AUTHENTICATE]) == string(yes) && !authed {
		return nil, p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	}
	raw, err := k.sign(message)
	if err == nil && bend != nil {
		raw = bend(raw)
	}
	return raw, err
}

// sign signs as CKM_ECDSA and CKM_RSA_PKCS do.
func (k *fakeKey) sign(message []byte) ([]byte, error) {
	switch key := k.private.(type) {
	case *ecdsa.PrivateKey:
		der, err := ecdsa.SignASN1(rand.Reader, key, message)
		if err != nil {
			return nil, err
		}
		r, s, in, inner := new(big.Int), new(big.Int), cryptobyte.String(der), cryptobyte.String(nil)
		if !in.ReadASN1(&inner, cbasn1.SEQUENCE) || !inner.ReadASN1Integer(r) || !inner.ReadASN1Integer(s) {
			return nil, errors.New("not a signature")
		}
		raw := make([]byte, 2*((key.Params().BitSize+7)/8))
		r.FillBytes(raw[:len(raw)/2])
		s.FillBytes(raw[len(raw)/2:])
		return raw, nil
	case *rsa.PrivateKey:
		return rsa.SignPKCS1v15(nil, key, 0, message)
	default:
		return nil, errors.New("unknown key")
	}
}

func (f *fake) GenerateKeyPair(p11.SessionHandle, []*p11.Mechanism, []*p11.Attribute, []*p11.Attribute) (p11.ObjectHandle, p11.ObjectHandle, error) {
	return 0, 0, p11.Error(p11.CKR_FUNCTION_NOT_SUPPORTED)
}

func (f *fake) GenerateRandom(p11.SessionHandle, int) ([]byte, error) {
	return nil, p11.Error(p11.CKR_FUNCTION_NOT_SUPPORTED)
}
