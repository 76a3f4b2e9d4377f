package oidc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/ca"
)

// headerTypes are the values of typ that a kind of token may have; it may also
// have none.
//
// RFC 8725, Section 3.11: "explicit typing" keeps logout tokens, DPoP proofs
// and security events, all signed with the same keys, from passing for ours.
// RFC 9068, Section 4: the typ of an access token is "at+jwt" or
// "application/at+jwt"; Keycloak and Entra ID say JWT all the same.
var headerTypes = map[TokenKind][]string{
	IDToken:     {"JWT", "jwt"},
	AccessToken: {"JWT", "jwt", "at+jwt", "application/at+jwt"},
}

// checkKind refuses a token that is not of the kind that the issuer is
// configured for. A client that was given a token for calling an API has not
// been given the right to sign in somebody's name.
func (is *issuer) checkKind(t *token) *ca.Refusal {
	if t.headerTyped && !slices.Contains(headerTypes[is.Accept], t.headerType) {
		return invalid(ca.ReasonTokenType, "header typ is %.40q", t.headerType)
	}
	// RFC 8417, Section 2.2: events makes it a security event token; a
	// back-channel logout token is one.
	if _, ok := t.claims["events"]; ok {
		return invalid(ca.ReasonTokenType, "token has events")
	}
	// Keycloak: ID, Bearer, DPoP, Refresh, Offline, Logout, Serialized-ID.
	// Amazon Cognito: id, access.
	wantType, wantUse := "ID", "id"
	if is.Accept == AccessToken {
		wantType, wantUse = "Bearer", "access"
	}
	typ, typed := t.claims["typ"]
	if typed && typ != wantType {
		return invalid(ca.ReasonTokenType, "payload typ is %.40q", fmt.Sprint(typ))
	}
	use, used := t.claims["token_use"]
	if used && use != wantUse {
		return invalid(ca.ReasonTokenType, "token_use is %.40q", fmt.Sprint(use))
	}
	name, access := t.anyClaim(accessClaims...)
	if is.Accept == IDToken {
		if access && !typed {
			return invalid(ca.ReasonTokenType, "token has %s, as access tokens do", name)
		}
		return nil
	}
	// OpenID Connect Core, Sections 2 and 3.1.3.6: an ID token has these.
	if name, ok := t.anyClaim("nonce", "at_hash", "c_hash"); ok {
		return invalid(ca.ReasonTokenType, "token has %s, as ID tokens do", name)
	}
	if named := typed || used || t.headerType == "at+jwt" || t.headerType == "application/at+jwt"; !named && !access {
		return invalid(ca.ReasonTokenType, "token has nothing that only access tokens have")
	}
	return nil
}

// accessClaims tell an access token from an ID token of the providers that put
// "JWT" into every header: what was granted and, of Entra ID, how the client
// proved itself. Both kinds are told apart by the same list, so no token is both.
var accessClaims = []string{"scope", "scp", "azpacr", "appidacr"}

// anyClaim returns the first of names that is a claim.
func (t *token) anyClaim(names ...string) (string, bool) {
	for _, name := range names {
		if _, ok := t.claims[name]; ok {
			return name, true
		}
	}
	return "", false
}

// client returns who got an access token. RFC 9068, Section 2.2, calls it
// client_id, Keycloak and Entra ID v2 azp, AD FS and Entra ID v1 appid.
func (t *token) client() (string, error) {
	var client string
	for _, name := range []string{"azp", "client_id", "appid"} {
		v, present := t.claims[name]
		if !present {
			continue
		}
		s, ok := v.(string)
		switch {
		case !ok || s == "":
			return "", fmt.Errorf("%s is empty or not a string", name)
		case client != "" && client != s:
			// Which of them the provider vouches for is anybody's guess.
			return "", fmt.Errorf("%s %.200q is not %.200q, which another claim names", name, s, client)
		}
		client = s
	}
	if client == "" {
		return "", errors.New("token names no client (azp, client_id or appid)")
	}
	return client, nil
}

// checkScopes: RFC 9068, Section 2.2.3: scope is a list with spaces between.
// Microsoft writes scp, as such a list or as an array.
func (is *issuer) checkScopes(t *token) *ca.Refusal {
	if len(is.RequiredScopes) == 0 {
		return nil
	}
	var granted []string
	for _, name := range []string{"scope", "scp"} {
		switch v := t.claims[name].(type) {
		case string:
			granted = append(granted, strings.Fields(v)...)
		case []any:
			for _, e := range v {
				if s, ok := e.(string); ok {
					granted = append(granted, s)
				}
			}
		}
	}
	for _, want := range is.RequiredScopes {
		if !slices.Contains(granted, want) {
			return ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "token lacks scope %.200q", want)
		}
	}
	return nil
}
