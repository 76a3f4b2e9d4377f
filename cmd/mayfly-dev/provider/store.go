package provider

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	// pendingLifetime bounds how long a sign-in or a device code may wait.
	pendingLifetime = 10 * time.Minute
	// codeLifetime bounds an authorization code: a client redeems it at once.
	codeLifetime = time.Minute
	// maxPending bounds the sign-ins, codes and device codes kept, each.
	maxPending = 1024
	// maxFailures is how many wrong passwords or user codes a sign-in survives.
	maxFailures = 10
)

var (
	errUnknownSignIn = errors.New("this sign-in is unknown or has expired")
	errOtherBrowser  = errors.New("this sign-in was started in another browser")
	errTooMany       = errors.New("too many sign-ins are pending, try again later")
	errNotOffered    = errors.New("not offered by the demo provider")
)

// store is what the library keeps its state in. Values leave it as copies.
type store struct {
	users accounts
	clock func() time.Time
	key   signingKey

	mu      sync.Mutex // guards the maps
	signIns map[string]signIn
	codes   map[string]signIn
	devices map[string]device // by device code
}

var (
	_ op.Storage                    = (*store)(nil)
	_ op.DeviceAuthorizationStorage = (*store)(nil)
	_ op.CanSetUserinfoFromRequest  = (*store)(nil)
)

func newStore(users accounts, clock func() time.Time) (*store, error) {
	// RSA, because cosign takes a token for a file name unless it is RS256.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making the signing key: %w", err)
	}
	thumb, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("naming the signing key: %w", err)
	}
	return &store{
		users:   users,
		clock:   clock,
		key:     signingKey{id: base64.RawURLEncoding.EncodeToString(thumb), key: key},
		signIns: make(map[string]signIn),
		codes:   make(map[string]signIn),
		devices: make(map[string]device),
	}, nil
}

// signIn is one authorization request on its way to a code and a token.
type signIn struct {
	id       string
	request  oidc.AuthRequest
	origin   string // of the redirect URI
	started  time.Time
	browser  [sha256.Size]byte // hash of the owner's cookie; zero before the login page was opened
	failures int

	// Set by a successful login.
	subject  string
	authTime time.Time
	clock    func() time.Time
}

func (s signIn) GetID() string                      { return s.id }
func (s signIn) GetACR() string                     { return "" }
func (s signIn) GetAMR() []string                   { return []string{"pwd"} }
func (s signIn) GetAudience() []string              { return []string{s.request.ClientID} }
func (s signIn) GetAuthTime() time.Time             { return skewed(s.authTime, s.clock) }
func (s signIn) GetClientID() string                { return s.request.ClientID }
func (s signIn) GetNonce() string                   { return s.request.Nonce }
func (s signIn) GetRedirectURI() string             { return s.request.RedirectURI }
func (s signIn) GetResponseType() oidc.ResponseType { return s.request.ResponseType }
func (s signIn) GetResponseMode() oidc.ResponseMode { return s.request.ResponseMode }
func (s signIn) GetScopes() []string                { return s.request.Scopes }
func (s signIn) GetState() string                   { return s.request.State }
func (s signIn) GetSubject() string                 { return s.subject }
func (s signIn) Done() bool                         { return s.subject != "" }

// GetCodeChallenge is never nil: CreateAuthRequest has seen to it.
func (s signIn) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: s.request.CodeChallenge, Method: oidc.CodeChallengeMethodS256}
}

// CreateAuthRequest keeps an authorization request that the library found well
// formed, or refuses it for what the library lets pass.
func (s *store) CreateAuthRequest(_ context.Context, r *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	origin, ok := loopbackRedirect(r.RedirectURI)
	switch {
	case !ok:
		return nil, oidc.ErrInvalidRequestRedirectURI().WithDescription("redirect_uri is not a plain http://localhost or http://127.0.0.1 URI")
	case slices.Contains(r.Prompt, oidc.PromptNone):
		return nil, oidc.ErrLoginRequired()
	case !slices.Contains(r.Scopes, oidc.ScopeOpenID):
		return nil, oidc.ErrInvalidScope().WithDescription("scope must contain openid")
	case r.ResponseMode != "" && r.ResponseMode != oidc.ResponseModeQuery:
		return nil, oidc.ErrInvalidRequest().WithDescription("response_mode must be query")
	// RFC 8252, Section 8.1: "authorization servers MUST support PKCE" and
	// "SHOULD reject authorization requests from native apps that don't use
	// PKCE". The library would also take the method "plain".
	case len(r.CodeChallenge) != 43 || r.CodeChallengeMethod != oidc.CodeChallengeMethodS256:
		return nil, oidc.ErrInvalidRequest().WithDescription("PKCE with code_challenge_method S256 is required")
	}
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(now)
	if len(s.signIns) >= maxPending {
		return nil, oidc.ErrServerError().WithDescription("%s", errTooMany.Error())
	}
	in := signIn{id: rand.Text(), request: *r, origin: origin, started: now, clock: s.clock}
	s.signIns[in.id] = in
	return in, nil
}

// prune forgets what has waited too long. The caller holds mu.
func (s *store) prune(now time.Time) {
	for id, in := range s.signIns {
		if !fresh(in.started, now, pendingLifetime) {
			delete(s.signIns, id)
		}
	}
	for code, in := range s.codes {
		if !fresh(in.authTime, now, codeLifetime) {
			delete(s.codes, code)
		}
	}
	for code, d := range s.devices {
		if !fresh(d.started, now, pendingLifetime) {
			delete(s.devices, code)
		}
	}
}

func fresh(since, now time.Time, lifetime time.Duration) bool { return now.Sub(since) < lifetime }

// AuthRequestByID returns a pending sign-in.
func (s *store) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, err := s.pending(id)
	return in, err
}

// pending finds a sign-in that is still worth completing. The caller holds mu.
func (s *store) pending(id string) (signIn, error) {
	in, ok := s.signIns[id]
	if !ok || !fresh(in.started, s.clock(), pendingLifetime) {
		return signIn{}, errUnknownSignIn
	}
	return in, nil
}

// adopt gives a sign-in to the first browser that opens its login page, and
// refuses every other one.
func (s *store) adopt(id, browser string) (signIn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, err := s.pending(id)
	if err != nil {
		return signIn{}, err
	}
	owner := sha256.Sum256([]byte(browser))
	if in.browser == ([sha256.Size]byte{}) {
		in.browser = owner
		s.signIns[id] = in
	}
	if in.browser != owner {
		return signIn{}, errOtherBrowser
	}
	return in, nil
}

// ownedBy reports whether a pending sign-in belongs to a browser.
func (s *store) ownedBy(id, browser string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, err := s.pending(id)
	return err == nil && browser != "" && in.browser == sha256.Sum256([]byte(browser))
}

// login completes a sign-in. Too many wrong passwords end it.
func (s *store) login(id, email, password string) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, err := s.pending(id)
	if err != nil {
		return User{}, err
	}
	u, err := s.users.authenticate(email, password)
	if err != nil {
		in.failures++
		if s.signIns[id] = in; in.failures >= maxFailures {
			delete(s.signIns, id)
		}
		return User{}, err
	}
	in.subject, in.authTime = u.Subject, s.clock()
	s.signIns[id] = in
	return u, nil
}

// SaveAuthCode turns a completed sign-in into a code. The sign-in itself is gone
// then, so that the callback yields one code only.
func (s *store) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, err := s.pending(id)
	if err != nil {
		return err
	}
	if s.prune(s.clock()); len(s.codes) >= maxPending {
		return errTooMany
	}
	delete(s.signIns, id)
	s.codes[code] = in
	return nil
}

// AuthRequestByCode redeems a code, whatever comes of it. RFC 6749, Section
// 4.1.2: "The client MUST NOT use the authorization code more than once." The
// library deletes it only after the token was made, which leaves a gap for a
// second request and any number of guesses at the verifier.
func (s *store) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, ok := s.codes[code]
	delete(s.codes, code)
	if !ok || !fresh(in.authTime, s.clock(), codeLifetime) {
		return nil, errUnknownSignIn
	}
	return in, nil
}

// DeleteAuthRequest has nothing left to do: a sign-in is gone once its code is
// made, and the code once it is redeemed.
func (s *store) DeleteAuthRequest(context.Context, string) error { return nil }

// GetClientByClientID knows one client.
func (s *store) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != ClientID {
		return nil, oidc.ErrInvalidClient().WithDescription("the only client is %q", ClientID)
	}
	return client{clock: s.clock}, nil
}

// AuthorizeClientIDSecret takes the empty secret of the public client: some
// OAuth libraries try HTTP Basic with it first.
func (s *store) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if id != ClientID || secret != "" {
		return errors.New("the only client is public")
	}
	return nil
}

// SetUserinfoFromScopes is deprecated in favour of SetUserinfoFromRequest.
func (s *store) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills in the claims that the scopes ask for.
func (s *store) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	u, ok := s.users.bySubject(r.GetSubject())
	if !ok {
		return fmt.Errorf("no user with subject %q", r.GetSubject())
	}
	info.Subject = u.Subject
	if slices.Contains(scopes, oidc.ScopeEmail) {
		info.Email, info.EmailVerified = u.Email, true
	}
	if slices.Contains(scopes, oidc.ScopeProfile) {
		info.Name = u.Name
	}
	return nil
}

// CreateAccessToken names an access token. OAuth wants one in the answer; as
// there is nothing here that takes it, nothing remembers it.
func (s *store) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return rand.Text(), skewed(s.clock(), s.clock).Add(TokenLifetime - behind(s.clock)), nil
}

// Health is asked by a readiness endpoint that is closed here.
func (s *store) Health(context.Context) error { return nil }

// signingKey is the key of the process, private and public face.
type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k signingKey) ID() string                                  { return k.id }
func (k signingKey) Key() any                                    { return k.key }
func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }

type publicKey struct{ signingKey }

func (k publicKey) Key() any                           { return k.key.Public() }
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publicKey) Use() string                        { return "sig" }

// SigningKey returns the key that signs tokens.
func (s *store) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// SignatureAlgorithms returns what the discovery document announces.
func (s *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// KeySet returns the public key set.
func (s *store) KeySet(context.Context) ([]op.Key, error) { return []op.Key{publicKey{s.key}}, nil }
