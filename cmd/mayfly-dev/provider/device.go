package provider

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
)

var errUserCode = errors.New("this code is unknown or has expired")

// device is one device authorization (RFC 8628) on its way to a token.
type device struct {
	userCode string
	started  time.Time
	state    op.DeviceAuthorizationState
}

// StoreDeviceAuthorization keeps a new device code. The expiry that comes with
// it is the machine's time, which the library compares; ours is in started.
func (s *store) StoreDeviceAuthorization(_ context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prune(now); len(s.devices) >= maxPending {
		return errTooMany
	}
	if _, taken := s.deviceByUserCode(userCode); taken {
		return op.ErrDuplicateUserCode
	}
	s.devices[deviceCode] = device{
		userCode: userCode,
		started:  now,
		state:    op.DeviceAuthorizationState{ClientID: clientID, Scopes: scopes, Expires: expires},
	}
	return nil
}

// GetDeviceAuthorizatonState answers a poll. An approved code is spent with it,
// for the same reason that an authorization code is.
func (s *store) GetDeviceAuthorizatonState(_ context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[deviceCode]
	if !ok || d.state.ClientID != clientID || !fresh(d.started, s.clock(), pendingLifetime) {
		return nil, errUserCode
	}
	if d.state.Done {
		delete(s.devices, deviceCode)
	}
	state := d.state
	state.Scopes, state.AuthTime = slices.Clone(state.Scopes), skewed(state.AuthTime, s.clock)
	return &state, nil
}

// approve lets the device that shows userCode have a token for a user.
func (s *store) approve(userCode, email, password string) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The password first: nobody gets to guess at user codes without one.
	u, err := s.users.authenticate(email, password)
	if err != nil {
		return User{}, err
	}
	deviceCode, ok := s.deviceByUserCode(userCode)
	if !ok {
		return User{}, errUserCode
	}
	d := s.devices[deviceCode]
	if d.state.Done || !fresh(d.started, s.clock(), pendingLifetime) {
		return User{}, errUserCode
	}
	d.state.Done, d.state.Subject = true, u.Subject
	d.state.AMR, d.state.AuthTime = []string{"pwd"}, s.clock()
	s.devices[deviceCode] = d
	return u, nil
}

// deviceByUserCode finds a device code. The caller holds mu. RFC 8628, Section
// 6.1: comparisons should forgive case and punctuation.
func (s *store) deviceByUserCode(userCode string) (string, bool) {
	want := plainCode(userCode)
	for deviceCode, d := range s.devices {
		if plainCode(d.userCode) == want {
			return deviceCode, true
		}
	}
	return "", false
}

func plainCode(code string) string {
	return strings.Map(func(r rune) rune {
		if r < 'A' || r > 'Z' {
			return -1
		}
		return r
	}, strings.ToUpper(code))
}
