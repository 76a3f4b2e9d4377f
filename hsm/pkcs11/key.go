package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/hsm"
)

// failoverAfter is how long a token may take while another could do it: a
// request has four seconds for everything. A token that is slower than this by
// nature should not be the first of a pair.
const failoverAfter = 700 * time.Millisecond

// KeyConfig says which private key.
type KeyConfig struct {
	// Name is what errors and logs call the key.
	Name string
	// Object is CKA_LABEL and ID is CKA_ID; at least one must be given, and on
	// each token exactly one private key must match.
	Object string
	ID     []byte
	// Public is the public key of the issuing certificate, or of the log.
	// Required: every signature is verified with it.
	Public crypto.PublicKey
	// AllowExtractable admits keys that are extractable or not sensitive, whose
	// private half the token may give away.
	AllowExtractable bool
}

// Key is a private key that one or several tokens hold. It implements hsm.Key.
type Key struct {
	cfg    KeyConfig
	places []place
	closed atomic.Bool
}

var _ hsm.Key = (*Key)(nil)

// place is a token with the key.
type place struct {
	token *Token
	ref   *keyRef
}

// keyRef is a key to look for on one token.
type keyRef struct {
	name             string
	label            string
	id               []byte
	public           crypto.PublicKey
	allowExtractable bool
}

// foundKey is a key in one connection, or why there is none.
type foundKey struct {
	handle             p11.ObjectHandle
	alwaysAuthenticate bool
	err                error
}

// NewKey finds a key on tokens, which are in order of preference and stay their
// owner's to close. Each token that is there must hold it: a key that is absent,
// matched twice, extractable, or not the one of Public is an error, on the second
// token as well. A token that is away is looked at when it comes back; one at
// least must work now.
func NewKey(ctx context.Context, tokens []*Token, cfg KeyConfig) (*Key, error) {
	if err := cfg.check(tokens); err != nil {
		return nil, fmt.Errorf("pkcs11: key %s: %w", cfg.Name, err)
	}
	k := &Key{cfg: cfg}
	var away []error
	for _, t := range tokens {
		p := place{t, &keyRef{cfg.Name, cfg.Object, slices.Clone(cfg.ID), cfg.Public, cfg.AllowExtractable}}
		k.places = append(k.places, p)
		err := t.adopt(ctx, p.ref)
		if err == nil {
			continue
		}
		err = fmt.Errorf("pkcs11: key %s on token %s: %w", cfg.Name, t.cfg.Name, err)
		if c := classify(err); c == classConfig || c == classFatal || c == classCaller {
			return nil, errors.Join(err, k.Close())
		}
		away = append(away, err)
	}
	if len(away) == len(tokens) {
		return nil, errors.Join(append(away, k.Close())...)
	}
	return k, nil
}

func (c KeyConfig) check(tokens []*Token) error {
	if len(tokens) == 0 {
		return errors.New("no token given")
	}
	for i, t := range tokens {
		if slices.Contains(tokens[:i], t) {
			return fmt.Errorf("token %s is given twice", t.cfg.Name)
		}
	}
	if c.Object == "" && len(c.ID) == 0 {
		return errors.New("neither its label nor its id is given")
	}
	if c.Public == nil {
		return errors.New("no public key given to check it by")
	}
	return hsm.CheckPublic(c.Public)
}

// adopt looks for a key and has each later connection look for it.
func (t *Token) adopt(ctx context.Context, ref *keyRef) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return errClosed
	}
	t.refs[ref] = true
	t.mu.Unlock()
	conn, err := t.search(ctx, ref)
	if err != nil && classify(err) == classSession {
		conn, err = t.search(ctx, ref) // in another one
	}
	if err != nil && conn != nil && classify(err).broken() && !t.unusable(conn, ref) {
		// The connection was stale. The next one looks for the key.
		t.broken(conn, err)
		if err = t.await(ctx, conn); err == nil {
			_, err = t.search(ctx, ref)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == nil {
		return err
	}
	if problem := t.conn.keys[ref].err; problem != nil && !errors.Is(problem, errNotSought) {
		// The token is there and the key is not as it should be.
		return &classError{classConfig, problem}
	}
	return err
}

// unusable reports whether a connection that works has found the key to be bad.
func (t *Token) unusable(conn *connection, ref *keyRef) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return conn.keys[ref].err != nil
}

// abandon has nobody look for a key any more.
func (t *Token) abandon(ref *keyRef) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.refs, ref)
	if t.conn != nil {
		delete(t.conn.keys, ref)
	}
}

// has reports why the token would not sign with the key now.
func (t *Token) has(ref *keyRef) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.availableLocked(); err != nil {
		return err
	}
	key := t.conn.keys[ref]
	if key.err == nil && key.handle == 0 {
		return errNotSought
	}
	return key.err
}

// selfTest is signed at each connection. It is not the beginning of anything
// that a certificate or a log signs.
var selfTest = sha256.Sum256([]byte("mayfly hsm self-test\x00"))

// lookup finds the key in a session, checks its attributes, compares its public
// key, and signs and verifies once. What is wrong with the key is in foundKey;
// an error is about the session or the token.
func (r *keyRef) lookup(t *Token, s p11.SessionHandle) (foundKey, error) {
	a := t.module.api
	handle, err := findKey(a, s, r.label, r.id)
	switch {
	case errors.Is(err, errAbsent):
		return foundKey{err: &classError{classDevice, err}}, nil
	case err != nil && classify(err) == classConfig:
		return foundKey{err: err}, nil
	case err != nil:
		return foundKey{}, err
	}
	key := foundKey{handle: handle}
	for _, check := range []func(api, p11.SessionHandle, *foundKey) error{r.checkAttributes, r.checkPublic} {
		if err := check(a, s, &key); err != nil {
			if classify(err) == classConfig {
				return foundKey{err: err}, nil
			}
			return foundKey{}, err
		}
	}
	test, err := newRequest(r.public, selfTest[:], crypto.SHA256)
	if err != nil {
		return foundKey{err: &classError{classConfig, err}}, nil
	}
	raw, err := test.perform(t, key, s)
	if err != nil {
		err = fmt.Errorf("test signature: %w", err)
		if classify(err) == classCaller {
			return foundKey{err: &classError{classConfig, err}}, nil
		}
		return foundKey{}, err
	}
	if _, err := test.finish(raw); err != nil {
		t.metrics.bad.Inc()
		return foundKey{err: fault(classDevice, "test signature: %w: the token holds another key than the certificate names (sha256 of its public key %s), or is broken", err, fingerprint(r.public))}, nil
	}
	return key, nil
}

// checkAttributes refuses keys that cannot sign, and those that the token would
// give away.
func (r *keyRef) checkAttributes(a api, s p11.SessionHandle, key *foundKey) error {
	sign, known, err := flag(a, s, key.handle, p11.CKA_SIGN)
	if err != nil {
		return err
	}
	if known && !sign {
		return fault(classConfig, "the key is not for signing (CKA_SIGN is false)")
	}
	sensitive, known, err := flag(a, s, key.handle, p11.CKA_SENSITIVE)
	if err != nil {
		return err
	}
	if (!known || !sensitive) && !r.allowExtractable {
		return fault(classConfig, "the key is not sensitive (CKA_SENSITIVE is not true): the token shows its private half to whoever logs in; make a new key with mayfly hsm keygen, or set allow_extractable")
	}
	extractable, known, err := flag(a, s, key.handle, p11.CKA_EXTRACTABLE)
	if err != nil {
		return err
	}
	if (!known || extractable) && !r.allowExtractable {
		return fault(classConfig, "the key can be extracted from the token (CKA_EXTRACTABLE is not false); make a new key with mayfly hsm keygen, or set allow_extractable")
	}
	key.alwaysAuthenticate, _, err = flag(a, s, key.handle, p11.CKA_ALWAYS_AUTHENTICATE)
	return err
}

// checkPublic compares the public key object, if there is one. If there is none,
// the test signature decides.
func (r *keyRef) checkPublic(a api, s p11.SessionHandle, key *foundKey) error {
	id, err := attribute(a, s, key.handle, p11.CKA_ID)
	if err != nil {
		return err
	}
	label := r.label
	if len(id) > 0 {
		label = ""
	} else if label == "" {
		return nil
	}
	found, err := objects(a, s, keyTemplate(p11.CKO_PUBLIC_KEY, label, id))
	if err != nil {
		return fmt.Errorf("looking for its public key: %w", err)
	}
	var other []string
	for _, o := range found {
		public, err := readPublic(a, s, o)
		if err != nil {
			if _, ok := errors.AsType[p11.Error](err); ok {
				return fmt.Errorf("reading its public key: %w", err)
			}
			other = append(other, err.Error())
			continue
		}
		if equal(public, r.public) {
			return nil
		}
		other = append(other, "sha256 "+fingerprint(public))
	}
	if len(other) == 0 {
		return nil
	}
	return fault(classConfig, "its public key (%s) is not the one of the certificate (sha256 %s)", list(other), fingerprint(r.public))
}

func equal(a, b crypto.PublicKey) bool {
	switch a := a.(type) {
	case *ecdsa.PublicKey:
		return a.Equal(b)
	case *rsa.PublicKey:
		return a.Equal(b)
	default:
		return false
	}
}

// fingerprint returns the SHA-256 of the SubjectPublicKeyInfo in hex.
func fingerprint(public crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "unknown"
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Public returns the public key.
func (k *Key) Public() crypto.PublicKey { return k.cfg.Public }

// Sign signs a digest with the first token that can; see [hsm.Key]. A token that
// fails, or does not answer soon, is left for the next one.
func (k *Key) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := k.sign(ctx, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("pkcs11: signing with key %s: %w", k.cfg.Name, err)
	}
	return sig, nil
}

func (k *Key) sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if k.closed.Load() {
		return nil, errClosed
	}
	if err := hsm.CheckDigest(digest, opts); err != nil {
		return nil, err
	}
	// The token reads it after the caller may have gone.
	r, err := newRequest(k.cfg.Public, slices.Clone(digest), opts)
	if err != nil {
		return nil, err
	}
	order := k.order()
	var errs []error
	for i, p := range order {
		last := i == len(order)-1
		sig, err := p.attempt(ctx, r, last)
		if err == nil {
			return sig, nil
		}
		errs = append(errs, fmt.Errorf("token %s: %w", p.token.cfg.Name, err))
		if ctx.Err() != nil || classify(err) == classCaller {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// attempt signs with one token, briefly unless it is the last.
func (p place) attempt(ctx context.Context, r *request, last bool) ([]byte, error) {
	if !last {
		brief, cancel := context.WithTimeout(ctx, failoverAfter)
		defer cancel()
		ctx = brief
	}
	return p.token.sign(ctx, p.ref, r, last)
}

// order returns the tokens to try: those that work, by preference, and after
// them those in which a call hangs. If none works, all of them.
func (k *Key) order() []place {
	var good, doubtful []place
	for _, p := range k.places {
		if p.token.has(p.ref) != nil {
			continue
		}
		if _, stuck := p.token.hangs.figures(); stuck > 0 {
			doubtful = append(doubtful, p)
		} else {
			good = append(good, p)
		}
	}
	if len(good)+len(doubtful) == 0 {
		return k.places
	}
	return append(good, doubtful...)
}

// Ready reports, without I/O, why no token would sign now.
func (k *Key) Ready() error {
	if k.closed.Load() {
		return fmt.Errorf("pkcs11: key %s: %w", k.cfg.Name, errClosed)
	}
	var errs []error
	for _, p := range k.places {
		err := p.token.has(p.ref)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("pkcs11: key %s on token %s: %w", k.cfg.Name, p.token.cfg.Name, err))
	}
	return errors.Join(errs...)
}

// Hangs reports whether calls that hang are why a token would not sign with the
// key now: only the end of the process ends them. A token that is merely away
// comes back by itself.
func (k *Key) Hangs() bool {
	return slices.ContainsFunc(k.places, func(p place) bool {
		err := p.token.has(p.ref)
		return err != nil && classify(err) == classHung
	})
}

// Close lets go of the key. The tokens stay open, and signatures under way
// finish.
func (k *Key) Close() error {
	if !k.closed.Swap(true) {
		for _, p := range k.places {
			p.token.abandon(p.ref)
		}
	}
	return nil
}

// LogValue names the key.
func (k *Key) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", k.cfg.Name), slog.String("spki_sha256", fingerprint(k.cfg.Public)))
}
