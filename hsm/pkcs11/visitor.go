package pkcs11

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/hsm"
)

// visitor is an administrator's command at work in one token: one session, logged
// in once, closed at the end. It heals nothing and tries nothing twice: what goes
// wrong is what the command is there to tell.
type visitor struct {
	lib     api
	entry   Entry
	session p11.SessionHandle
	pinFile string
	clock   func() time.Time
}

// inside does f with a library that takes calls. When ctx ends first it returns,
// and leaves f to the library: a call into it cannot be cancelled.
func inside[T any](ctx context.Context, path string, f func(a api) (T, error)) (T, error) {
	result := make(chan T, 1)
	err := visit(ctx, path, func(a api) error {
		v, err := f(a)
		result <- v
		return err
	})
	select {
	case v := <-result:
		return v, err
	default:
		var none T
		return none, err
	}
}

// inToken does f in the one token that c means, logged in if the state of the PIN
// allows it.
func inToken[T any](ctx context.Context, c TokenConfig, flags uint, f func(v *visitor) (T, error)) (T, error) {
	return inside(ctx, c.Module, func(a api) (result T, err error) {
		v := newVisitor(a, c)
		if err := v.enter(c, flags); err != nil {
			return result, err
		}
		// There is no C_Logout: with the last session the login ends, and before
		// that it would log out everybody in this process.
		defer v.lib.CloseSession(v.session) //nolint:errcheck // nothing depends on it any more
		return f(v)
	})
}

func newVisitor(a api, c TokenConfig) *visitor {
	v := &visitor{lib: a, pinFile: c.PINFile, clock: c.Clock}
	if v.clock == nil {
		v.clock = time.Now
	}
	return v
}

func (v *visitor) enter(c TokenConfig, flags uint) error {
	var err error
	if v.entry, err = choose(v.lib, c); err != nil {
		return err
	}
	if v.entry.flags&p11.CKF_WRITE_PROTECTED != 0 && flags&p11.CKF_RW_SESSION != 0 {
		return errors.New("the token is write-protected")
	}
	if v.session, err = v.lib.OpenSession(v.entry.Slot, flags); err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	if err := v.login(v.session, p11.CKU_USER); err != nil {
		_ = v.lib.CloseSession(v.session) // the login's error says more
		return err
	}
	return nil
}

// login spends one attempt, and none where it could be the last.
func (v *visitor) login(s p11.SessionHandle, user uint) error {
	if v.entry.flags&p11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	if err := checkPINState(v.entry.flags); err != nil {
		return err
	}
	pin, err := hsm.ReadSecretLine("PIN file", v.pinFile)
	if err != nil {
		return err
	}
	defer clear(pin)
	// Seen as a string without a copy, which could not be cleared.
	err = v.lib.Login(s, user, unsafe.String(&pin[0], len(pin))) //nolint:gosec // the library copies it before pin is cleared
	if err != nil && !errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
		return fmt.Errorf("logging in with the PIN of %s: %w", v.pinFile, &callError{"C_Login", err})
	}
	return nil
}

// entries lists the tokens of a library.
func entries(m api) ([]Entry, error) {
	slots, err := m.GetSlotList(true)
	if err != nil {
		return nil, fmt.Errorf("listing the slots: %w", err)
	}
	var all []Entry
	for _, slot := range slots {
		t, err := m.GetTokenInfo(slot)
		if errors.Is(err, p11.Error(p11.CKR_TOKEN_NOT_PRESENT)) || errors.Is(err, p11.Error(p11.CKR_TOKEN_NOT_RECOGNIZED)) {
			continue // it went between the two calls, or is no such token
		}
		if err != nil {
			return nil, fmt.Errorf("asking the token in slot %d for its name: %w", slot, err)
		}
		all = append(all, newEntry(present{slot, t}))
	}
	return all, nil
}

func newEntry(p present) Entry {
	u := p.uri()
	return Entry{
		Slot: p.slot, Label: u.Token, Manufacturer: u.Manufacturer, Model: u.Model, Serial: u.Serial, URI: u.String(),
		Firmware: version(p.info.FirmwareVersion), Hardware: version(p.info.HardwareVersion),
		Initialized: p.info.Flags&p11.CKF_TOKEN_INITIALIZED != 0, PIN: pinWords(p.info.Flags),
		flags: p.info.Flags, maxSessions: p.info.MaxSessionCount,
	}
}

// choose returns the one token that c means.
func choose(m api, c TokenConfig) (Entry, error) {
	want, err := c.want()
	if err != nil {
		return Entry{}, err
	}
	p, err := findToken(m, want)
	if err != nil {
		return Entry{}, err
	}
	return newEntry(p), nil
}

func (v *visitor) keyURI(o Object) string {
	u := URI{Token: v.entry.Label, Manufacturer: v.entry.Manufacturer, Model: v.entry.Model, Serial: v.entry.Serial, Object: o.Label, ID: o.ID, Type: "private"}
	return u.String()
}

// keys returns all private keys.
func (v *visitor) keys() ([]Object, error) {
	handles, err := objects(v.lib, v.session, keyTemplate(p11.CKO_PRIVATE_KEY, "", nil))
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, h := range handles {
		o, err := v.object(h)
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// key returns the one private key that k names.
func (v *visitor) key(k KeyConfig) (Object, error) {
	if k.Object == "" && len(k.ID) == 0 {
		return Object{}, errors.New("neither a label nor an id names the key")
	}
	handle, err := findKey(v.lib, v.session, k.Object, k.ID)
	if err != nil {
		return Object{}, err
	}
	return v.object(handle)
}

// sign has the token sign a SHA-256 digest and verifies the result under the
// object's public key. It makes the calls that the service makes.
func (v *visitor) sign(s p11.SessionHandle, o Object, digest []byte) ([]byte, error) {
	if o.Public == nil {
		return nil, errors.New("the token tells the public key nowhere, so that its signature cannot be verified")
	}
	r, err := newRequest(o.Public, digest, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	if err := v.lib.SignInit(s, r.mechanism(), o.handle); err != nil {
		return nil, &callError{"C_SignInit", err}
	}
	if f := o.Flag("CKA_ALWAYS_AUTHENTICATE"); f.Known && f.Value {
		if err := v.login(s, p11.CKU_CONTEXT_SPECIFIC); err != nil {
			return nil, err
		}
	}
	raw, err := v.lib.Sign(s, r.input)
	if err != nil {
		return nil, &callError{"C_Sign", err}
	}
	return r.finish(raw)
}

// describe asks a library who it is.
func describe(a api, path string) (Library, error) {
	file, err := checkModule(path)
	if err != nil {
		return Library{}, err
	}
	i, err := a.GetInfo()
	if err != nil {
		return Library{}, &callError{"C_GetInfo", err}
	}
	digest, err := fileDigest(file)
	if err != nil {
		return Library{}, err
	}
	return Library{
		Path: file, SHA256: digest, Manufacturer: trim(i.ManufacturerID), Description: trim(i.LibraryDescription),
		Version: version(i.LibraryVersion), Cryptoki: version(i.CryptokiVersion),
	}, nil
}
