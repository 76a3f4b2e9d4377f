package keys

import (
	"cmp"
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

const (
	// openTimeout bounds how long one key may take to be opened.
	openTimeout = 30 * time.Second
	// closeTimeout bounds how long a token may take to be closed: one that hangs
	// must not keep the journal from its last records.
	closeTimeout = 10 * time.Second
)

// Tokens are the PKCS#11 tokens of a process. Each is opened for the first key on
// it, shared by all keys on it, those of the next configuration included, and
// closed with the last of them. So a reload logs in to nothing that it has
// already. Only a token that is not ready is opened anew: when its PIN file was
// written since it was opened, or when it refused the PIN, since such a token
// tries none by itself and may have been unlocked. Package pkcs11 sees to it that
// no PIN that was refused is tried again.
type Tokens struct {
	// State is the state directory, in which is kept which PINs were refused, for the
	// next start; empty when nothing is kept.
	State string
	// Logger, Registerer and Clock go to every token; each may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Clock      func() time.Time
	// OnStuck is called when so many calls hang in a library that only a new
	// process helps, once for each token; it may be nil.
	OnStuck func(error)

	// patience bounds how long a key may take to be opened; 0 means openTimeout.
	patience time.Duration

	// mu guards open. It is held while a token is opened or closed, so that two
	// keys do not spend two logins on it.
	mu   sync.Mutex
	open map[tokenID]*sharedToken
}

// tokenID tells whether a token that is open is the one that a configuration
// means. The PIN is not in it, but when its file was written.
type tokenID struct {
	entry   config.Token
	written time.Time
	size    int64
	// again tells tokens that were opened anew with the same file.
	again int
}

func newTokenID(c config.Token) tokenID {
	id := tokenID{entry: c}
	if st, err := os.Stat(c.PINFile); err == nil { // else opening it tells
		id.written, id.size = st.ModTime(), st.Size()
	}
	return id
}

type sharedToken struct {
	*pkcs11.Token
	keys int
}

// Key opens a key of the configuration: from its file, or on its tokens, where
// public is the one of its certificate and required. It is an [Opener].
func (t *Tokens) Key(ctx context.Context, f *config.File, name string, k config.Key, public crypto.PublicKey) (hsm.Key, error) {
	if len(k.Tokens) == 0 {
		return openFile(k)
	}
	if public == nil {
		return nil, errors.New("a key on a token is known by its certificate, and there is none to be read")
	}
	kc, err := KeyConfig(name, k, public)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Who waits for a token that hangs hangs himself, a start among them.
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(t.patience, openTimeout))
	defer cancel()
	key := &tokenKey{owner: t}
	for _, name := range k.Tokens {
		c, err := FindToken(f, name)
		if err == nil {
			err = t.take(ctx, key, t.identify(c))
		}
		if err != nil {
			return nil, errors.Join(err, t.giveBack(key))
		}
	}
	var tokens []*pkcs11.Token
	for _, id := range key.on {
		tokens = append(tokens, t.open[id].Token)
	}
	if key.Key, err = pkcs11.NewKey(ctx, tokens, kc); err != nil {
		return nil, errors.Join(err, t.giveBack(key))
	}
	return key, nil
}

// identify returns the open token that c means, or the one to be opened. While a
// token is logged in it looks at no PIN, so a new file says nothing about one that
// is ready. The caller holds mu.
func (t *Tokens) identify(c config.Token) tokenID {
	now := newTokenID(c)
	for id, shared := range t.open {
		if id.entry != c {
			continue
		}
		same := id.written.Equal(now.written) && id.size == now.size
		if err := shared.Ready(); err == nil || same && !pkcs11.RefusedPIN(err) {
			return id
		}
	}
	for t.open[now] != nil {
		now.again++
	}
	return now
}

// take has a key use a token, which is opened if it is not open yet. The caller
// holds mu.
func (t *Tokens) take(ctx context.Context, key *tokenKey, id tokenID) error {
	if t.open[id] == nil {
		c := TokenConfig(id.entry)
		c.Logger, c.Registerer, c.Clock, c.OnStuck = t.Logger, t.Registerer, t.Clock, t.OnStuck
		if err := t.spare(id); err != nil {
			return err
		}
		token, err := pkcs11.OpenToken(ctx, c)
		if err != nil || token.Ready() == nil { // else the PIN was not tried
			t.remember(id.entry, id.written, err)
		}
		if err != nil {
			return err
		}
		if t.open == nil {
			t.open = make(map[tokenID]*sharedToken)
		}
		t.open[id] = &sharedToken{Token: token}
	}
	t.open[id].keys++
	key.on = append(key.on, id)
	return nil
}

// giveBack ends a key's use of its tokens and closes those that nobody uses any
// more. The caller holds mu.
func (t *Tokens) giveBack(key *tokenKey) error {
	var errs []error
	for _, id := range key.on {
		shared := t.open[id]
		if shared.keys--; shared.keys == 0 {
			delete(t.open, id)
			errs = append(errs, closeToken(shared))
		}
	}
	key.on = nil
	return errors.Join(errs...)
}

func closeToken(t *sharedToken) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return t.Close(ctx)
}

// tokenKey gives its tokens back when it is closed.
type tokenKey struct {
	*pkcs11.Key
	owner *Tokens
	// on is guarded by owner.mu.
	on []tokenID
}

func (k *tokenKey) Close() error {
	err := k.Key.Close()
	k.owner.mu.Lock()
	defer k.owner.mu.Unlock()
	return errors.Join(err, k.owner.giveBack(k))
}

// Open opens one key for a command that uses it and ends; closing the key
// closes its tokens. path is the key's place in the configuration, for errors.
// public may be nil when there is no certificate yet: then the key's token is
// asked for it first.
func Open(ctx context.Context, f *config.File, path string, k config.Key, public crypto.PublicKey) (hsm.Key, error) {
	if public == nil && len(k.Tokens) > 0 {
		o, err := FindObject(ctx, f, path, k)
		if err != nil {
			return nil, err
		}
		if public = o.Public; public == nil {
			return nil, fmt.Errorf("%s: the token tells the public key of %s nowhere, neither beside the private key nor in a certificate", f.Place(path), o.URI)
		}
	}
	key, err := new(Tokens).Key(ctx, f, path, k, public)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Place(path), err)
	}
	return key, nil
}

// FindObject looks for a key on the first of its tokens.
func FindObject(ctx context.Context, f *config.File, path string, k config.Key) (pkcs11.Object, error) {
	if len(k.Tokens) == 0 {
		return pkcs11.Object{}, fmt.Errorf("%s: the key is on no token", f.Place(path))
	}
	kc, err := KeyConfig(path, k, nil)
	if err != nil {
		return pkcs11.Object{}, fmt.Errorf("%s: %w", f.Place(path), err)
	}
	t, err := FindToken(f, k.Tokens[0])
	if err != nil {
		return pkcs11.Object{}, err
	}
	o, err := pkcs11.FindObject(ctx, TokenConfig(t), kc)
	if err != nil {
		return pkcs11.Object{}, fmt.Errorf("%s: %w", f.Place(path), err)
	}
	return o, nil
}

// FindToken returns the configuration's token of that name.
func FindToken(f *config.File, name string) (config.Token, error) {
	i := slices.IndexFunc(f.Tokens, func(t config.Token) bool { return t.Name == name })
	if i < 0 {
		return config.Token{}, fmt.Errorf("the configuration %s has no token %q", f.Path, name)
	}
	return f.Tokens[i], nil
}

// TokenConfig is an entry of tokens as the signer takes it.
func TokenConfig(t config.Token) pkcs11.TokenConfig {
	return pkcs11.TokenConfig{
		Name: t.Name, Module: t.Module, URI: t.URI, Label: t.Label, Serial: t.Serial, Manufacturer: t.Manufacturer, Model: t.Model,
		PINFile: t.PINFile, MaxSessions: t.MaxSessions,
	}
}

// KeyConfig is a key on tokens as the signer takes it.
func KeyConfig(name string, k config.Key, public crypto.PublicKey) (pkcs11.KeyConfig, error) {
	c := pkcs11.KeyConfig{Name: name, Object: k.Object, Public: public, AllowExtractable: k.AllowExtractable}
	var err error
	if c.ID, err = hex.DecodeString(k.ID); err != nil {
		return c, fmt.Errorf("reading the key's id: %w", err)
	}
	if k.URI == "" {
		return c, nil
	}
	u, err := pkcs11.ParseURI(k.URI)
	if err != nil {
		return c, err
	}
	if u.Type != "" && u.Type != "private" {
		return c, fmt.Errorf("the uri is of type=%s; a key that signs has type=private", u.Type)
	}
	if u.Object == "" && len(u.ID) == 0 {
		return c, errors.New("the uri names neither object nor id, so it names no key")
	}
	c.Object, c.ID = u.Object, u.ID
	// A condition that nobody would check is refused.
	u.Object, u.ID, u.Type = "", nil, ""
	if rest := u.String(); rest != "pkcs11:" {
		return c, fmt.Errorf("the uri also says %s; which token it is, the entry in tokens says: leave object, id and type", rest)
	}
	return c, nil
}
