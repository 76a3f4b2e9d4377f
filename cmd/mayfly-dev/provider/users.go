package provider

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// demoPassword is no secret: it stands on the login page.
const demoPassword = "mayfly"

// User is an account of the provider.
type User struct {
	// Email names the account at the login page and becomes the email claim,
	// always as verified. Required.
	Email string
	// Name is the name claim. Default: the part of Email before the @.
	Name string
	// Subject is the sub claim. Default: "demo-" and the part of Email before
	// the @.
	Subject string
	// Password is what the login page wants, and shows. Default: "mayfly".
	Password string
}

// DemoUsers are the accounts that exist when none are configured.
func DemoUsers() []User {
	return []User{
		{Email: "alice@demo.mayfly.test", Name: "Alice Adams", Subject: "demo-alice", Password: demoPassword},
		{Email: "bob@demo.mayfly.test", Name: "Bob Brown", Subject: "demo-bob", Password: demoPassword},
	}
}

// accounts are the users in the order of the login page; never empty, emails and
// subjects unique.
type accounts []User

// directory fills in the defaults and checks the accounts.
func directory(users []User) (accounts, error) {
	if len(users) == 0 {
		users = DemoUsers()
	}
	all := slices.Clone(users)
	seen := make(map[string]bool)
	for i := range all {
		u := &all[i]
		local, domain, ok := strings.Cut(u.Email, "@")
		if !ok || local == "" || domain == "" {
			return nil, fmt.Errorf("user %q: not an email address", u.Email)
		}
		if u.Name == "" {
			u.Name = local
		}
		if u.Subject == "" {
			u.Subject = "demo-" + local
		}
		if u.Password == "" {
			u.Password = demoPassword
		}
		if seen["email "+u.Email] || seen["sub "+u.Subject] {
			return nil, fmt.Errorf("user %q: email or subject taken", u.Email)
		}
		seen["email "+u.Email], seen["sub "+u.Subject] = true, true
	}
	return all, nil
}

func (a accounts) list() []User { return slices.Clone(a) }

func (a accounts) byEmail(email string) (User, bool) {
	return a.find(func(u User) bool { return u.Email == email })
}

func (a accounts) bySubject(sub string) (User, bool) {
	return a.find(func(u User) bool { return u.Subject == sub })
}

func (a accounts) find(match func(User) bool) (User, bool) {
	i := slices.IndexFunc(a, match)
	if i < 0 {
		return User{}, false
	}
	return a[i], true
}

var errCredentials = errors.New("email or password is wrong")

// authenticate does not tell an unknown user from a wrong password.
func (a accounts) authenticate(email, password string) (User, error) {
	u, ok := a.byEmail(email)
	want, got := sha256.Sum256([]byte(u.Password)), sha256.Sum256([]byte(password))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !ok {
		return User{}, errCredentials
	}
	return u, nil
}
