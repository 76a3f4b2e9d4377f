package oidc

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
)

// accessIssuer takes access tokens of two clients.
func (p *provider) accessIssuer() Issuer {
	is := p.issuer()
	is.Accept, is.AuthorizedParties, is.ExtraAudiences = AccessToken, []string{"codesign-cli", "ci"}, []string{"account"}
	return is
}

// The shapes of access tokens that providers document.
func (p *provider) accessTokens() map[string][2]object {
	base := p.goodClaims()
	plain := goodHeader()
	return map[string][2]object{
		"RFC 9068":           {plain.with("typ", "at+jwt"), base.with("client_id", "ci").with("jti", "1").with("scope", "sign")},
		"RFC 9068, long typ": {plain.with("typ", "application/at+jwt"), base.with("client_id", "ci").with("jti", "1")},
		"Keycloak user": {plain, base.with("typ", "Bearer").with("azp", "codesign-cli").with("aud", []string{"mayfly", "account"}).
			with("realm_access", object{"roles": []string{"signer"}}).with("scope", "openid email").with("acr", "1")},
		"Keycloak service account": {plain, base.with("typ", "Bearer").with("azp", "ci").with("client_id", "ci").with("clientHost", "10.0.0.1")},
		"Keycloak, RFC 9068":       {plain.with("typ", "at+jwt"), base.with("typ", "Bearer").with("azp", "ci")},
		"Entra v2 user":            {plain, base.with("ver", "2.0").with("azp", "codesign-cli").with("azpacr", "0").with("scp", "sign").with("uti", "u").with("rh", "0.")},
		"Entra v1 user":            {plain.with("x5t", "rsa"), base.with("ver", "1.0").with("appid", "codesign-cli").with("appidacr", "0").with("scp", "sign")},
		"Entra application":        {plain, base.with("azp", "ci").with("azpacr", "1").with("roles", []string{"Sign"}).with("idtyp", "app").with("sub", "oid").with("oid", "oid")},
		"AD FS":                    {plain, base.with("apptype", "Public").with("appid", "codesign-cli").with("authmethod", "urn:oasis").with("scp", "openid").with("ver", "1.0")},
		"Cognito":                  {plain.with("typ", absent), base.with("token_use", "access").with("client_id", "ci").with("scope", "x")},
	}
}

func TestAccessTokensAreAcceptedWhereConfigured(t *testing.T) {
	p := newProvider(t)
	access, _ := newVerifier(t, Config{Issuers: []Issuer{p.accessIssuer()}})
	ids := p.issuer()
	ids.AuthorizedParties, ids.ExtraAudiences = []string{"codesign-cli", "ci"}, []string{"account"}
	id, _ := newVerifier(t, Config{Issuers: []Issuer{ids}})
	for name, tt := range p.accessTokens() {
		token := rs256().token(t, tt[0], tt[1])
		got, err := access.Verify(t.Context(), token)
		if err != nil || got.Token.AuthorizedParty != "ci" && got.Token.AuthorizedParty != "codesign-cli" {
			t.Errorf("%s: got %+v, %v; want it verified and its client named", name, got.Token, err)
		}
		// The very same tokens are nothing to an issuer that takes ID tokens.
		_, err = id.Verify(t.Context(), token)
		wantRefusal(t, name+" for ID tokens", err, ca.KindInvalid, ca.ReasonTokenType)
	}
}

func TestAccessTokensRefused(t *testing.T) {
	p := newProvider(t)
	is := p.accessIssuer()
	is.RequiredScopes = []string{"sign"}
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	header := goodHeader().with("typ", "at+jwt")
	claims := p.goodClaims().with("client_id", "ci").with("scope", "openid sign")
	good := rs256().token(t, header, claims)
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Fatalf("the token that all cases are made from: %v", err)
	}
	for _, scope := range []any{"sign", "a sign b", []string{"x", "sign"}} {
		name := "scp"
		if _, ok := scope.(string); ok {
			name = "scope"
		}
		if _, err := v.Verify(t.Context(), rs256().token(t, header, claims.with("scope", absent).with(name, scope))); err != nil {
			t.Errorf("%s %v: %v", name, scope, err)
		}
	}
	with := func(name string, value any) string { return rs256().token(t, header, claims.with(name, value)) }
	cases := []rejection{
		{"an ID token", rs256().token(t, goodHeader(), p.goodClaims()), ca.ReasonTokenType},
		{"an ID token of Keycloak", rs256().token(t, goodHeader(), claims.with("typ", "ID")), ca.ReasonTokenType},
		{"an ID token of Cognito", rs256().token(t, goodHeader(), claims.with("token_use", "id")), ca.ReasonTokenType},
		{"nonce", with("nonce", "n"), ca.ReasonTokenType},
		{"at_hash", with("at_hash", "h"), ca.ReasonTokenType},
		{"c_hash", with("c_hash", "h"), ca.ReasonTokenType},
		{"nothing that tells", rs256().token(t, goodHeader(), claims.with("scope", absent)), ca.ReasonTokenType},
		{"DPoP", with("typ", "DPoP"), ca.ReasonTokenType},
		{"Refresh", with("typ", "Refresh"), ca.ReasonTokenType},
		{"Offline", with("typ", "Offline"), ca.ReasonTokenType},
		{"Logout", with("typ", "Logout"), ca.ReasonTokenType},
		{"bearer in lower case", with("typ", "bearer"), ca.ReasonTokenType},
		{"events", with("events", object{}), ca.ReasonTokenType},
		{"no client", with("client_id", absent), ca.ReasonAuthorizedParty},
		{"foreign client", with("client_id", "mallory"), ca.ReasonAuthorizedParty},
		{"client in other case", with("client_id", "CI"), ca.ReasonAuthorizedParty},
		{"the audience as client", with("client_id", "mayfly"), ca.ReasonAuthorizedParty},
		{"client not a string", with("client_id", []string{"ci"}), ca.ReasonAuthorizedParty},
		{"client empty", with("client_id", ""), ca.ReasonAuthorizedParty},
		{"client null beside azp", with("client_id", nil), ca.ReasonAuthorizedParty},
		{"two clients, both allowed", with("azp", "codesign-cli"), ca.ReasonAuthorizedParty},
		{"two clients, one foreign", with("appid", "mallory"), ca.ReasonAuthorizedParty},
		{"foreign audience", with("aud", []string{"mayfly", "evil"}), ca.ReasonAudienceExtra},
		{"audience of another API", with("aud", "account"), ca.ReasonAudience},
		{"DPoP-bound", with("cnf", object{"jkt": "x"}), ca.ReasonPopRequired},
		{"exchanged for another", with("act", object{"sub": "bob"}), ca.ReasonDelegated},
		{"lightweight, no sub", with("sub", absent), ca.ReasonSubject},
	}
	for _, typ := range []any{"dpop+jwt", "logout+jwt", "secevent+jwt", "AT+JWT", "JOSE", 1, nil} {
		cases = append(cases, rejection{"header typ", rs256().token(t, header.with("typ", typ), claims), ca.ReasonTokenType})
	}
	testRejections(t, p, v, cases)
	for _, scope := range []any{absent, "", "openid", "Sign", "signing", "sign,openid", []string{}, []string{"a sign"}, 1, nil} {
		_, err := v.Verify(t.Context(), rs256().token(t, header, claims.with("scope", scope)))
		wantRefusal(t, "scope", err, ca.KindDenied, ca.ReasonPolicy)
	}
}

// AD FS: https in the ID token, http in the access token, one name in the
// certificate.
func TestSecondIssuerOfOneProvider(t *testing.T) {
	p := newProvider(t)
	is := p.accessIssuer()
	second := "http://adfs.corp.example/adfs/services/trust"
	is.AcceptedIssuers = []string{second}
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	claims := p.goodClaims().with("appid", "ci").with("scp", "openid").with("apptype", "Confidential")
	for _, iss := range []string{p.srv.URL, second} {
		id, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), claims.with("iss", iss)))
		if err != nil || id.Issuer != p.srv.URL || id.IssuerName != "test" || id.Claims["iss"] != iss {
			t.Errorf("iss %s: got issuer %q, %v; want %q", iss, id.Issuer, err, p.srv.URL)
		}
	}
	var cases []rejection
	for _, iss := range []string{second + "/", strings.Replace(second, "http", "https", 1), strings.ToUpper(second),
		"http://adfs.corp.example/adfs", strings.Replace(p.srv.URL, "https", "http", 1)} {
		cases = append(cases, rejection{iss, rs256().token(t, goodHeader(), claims.with("iss", iss)), ca.ReasonIssuerUnknown})
	}
	// go-oidc reads the last of iss and ISS; both are accepted issuers.
	both := strings.TrimSuffix(text(claims), "}") + `,"ISS":"` + second + `"}`
	cases = append(cases, rejection{"two names at once", rs256().compact(t, text(goodHeader()), both), ca.ReasonTokenMalformed})
	testRejections(t, p, v, cases)
}

// Entra ID's key sets say for each key whose tokens it signs.
func TestKeysOfOtherTenantsVerifyNothing(t *testing.T) {
	p := newProvider(t)
	const tenant = "72f988bf-86f1-41af-91ab-2d7cd011db47"
	is := p.issuer()
	is.URL += "/" + tenant + "/v2.0"
	keys := jwkSet(
		publicJWK(rsaKey1().Public()).with("kid", "rsa").with("issuer", p.srv.URL+"/{tenantid}/v2.0"),
		publicJWK(rsaKey1().Public()).with("kid", "own").with("issuer", is.URL),
		publicJWK(rsaKey1().Public()).with("kid", "msa").with("issuer", p.srv.URL+"/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"),
		publicJWK(rsaKey1().Public()).with("kid", "v1").with("issuer", "https://sts.windows.net/{tenantid}/"),
		publicJWK(rsaKey1().Public()).with("kid", "empty").with("issuer", ""),
		publicJWK(rsaKey1().Public()).with("kid", "any"),
	)
	p.setOverride(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			_, _ = w.Write(keys)
			return
		}
		_, _ = w.Write([]byte(text(object{"issuer": is.URL, "jwks_uri": p.srv.URL + "/keys"})))
	})
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	claims := p.goodClaims().with("iss", is.URL).with("tid", tenant).with("oid", "o").with("ver", "2.0")
	for _, kid := range []string{"rsa", "own", "any"} {
		if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader().with("kid", kid), claims)); err != nil {
			t.Errorf("key %s: %v (status %+v)", kid, err, v.Ready()[0])
		}
	}
	key := func(kid string) object { return goodHeader().with("kid", kid) }
	testRejections(t, p, v, []rejection{
		{"key for personal accounts", rs256().token(t, key("msa"), claims), ca.ReasonKeyIssuer},
		{"key of the v1 endpoint", rs256().token(t, key("v1"), claims), ca.ReasonKeyIssuer},
		{"tid of another tenant", rs256().token(t, key("rsa"), claims.with("tid", "9188040d-6c67-4c5b-b112-36a304b66dad")), ca.ReasonKeyIssuer},
		{"tid missing", rs256().token(t, key("rsa"), claims.with("tid", absent)), ca.ReasonKeyIssuer},
		{"tid a number", rs256().token(t, key("rsa"), claims.with("tid", 1)), ca.ReasonKeyIssuer},
		{"tid with a path", rs256().token(t, key("rsa"), claims.with("tid", tenant+"/v2.0/..")), ca.ReasonKeyIssuer},
		{"key with an empty issuer", rs256().token(t, key("empty"), claims), ca.ReasonKeyUnknown},
		{"another tenant", rs256().token(t, key("rsa"), claims.with("iss", p.srv.URL+"/9188040d/v2.0")), ca.ReasonIssuerUnknown},
		{"the template itself", rs256().token(t, key("rsa"), claims.with("iss", p.srv.URL+"/{tenantid}/v2.0")), ca.ReasonIssuerUnknown},
		{"v1 token at a v2 entry", rs256().token(t, key("v1"), claims.with("iss", "https://sts.windows.net/"+tenant+"/").with("ver", "1.0")), ca.ReasonIssuerUnknown},
		{"for Microsoft Graph", rs256().token(t, key("rsa").with("nonce", "n"), claims), ca.ReasonTokenType},
	})
}

// "common" answers with a template where the issuer belongs.
func TestTemplateIsNoIssuer(t *testing.T) {
	p := newProvider(t)
	p.setDiscovery(p.discovery.with("issuer", p.srv.URL+"/{tenantid}/v2.0"))
	is := p.issuer()
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if st := v.Ready()[0]; st.Ready || !strings.Contains(st.Err, "{tenantid}") {
		t.Errorf("status %+v, want an error that names the template", st)
	}
}
