package e2e

import (
	"strings"
	"testing"
)

// realmAttackTable is what a realm administrator can type into Keycloak's
// console.
func realmAttackTable() []attack {
	var all []attack
	for _, group := range [][]attack{otherPeople(), otherSpellings(), otherShapes(), otherClaims(), otherTokens()} {
		all = append(all, group...)
	}
	return all
}

// email is an attack that puts one text into the email claim.
func email(name, value, want string) attack {
	return attack{name: name, mappers: []mapper{text("email", value)}, shows: `"email":`, want: want}
}

const foreign = "san_not_allowed"

// otherPeople are addresses of others, and what a careless comparison takes for
// an address of one's own.
func otherPeople() []attack {
	return []attack{
		email("another's address", alice, foreign),
		{name: "another's address in the user's record", user: map[string]any{"email": alice, "emailVerified": true}, shows: alice, want: foreign},
		email("another's address in upper case", "ALICE@CORP.EXAMPLE", foreign),
		email("a domain below", "alice@corp.contractors.example", foreign),
		email("a domain that ends alike", "alice@evilcontractors.example", foreign),
		email("a domain that begins alike", "alice@contractors.example.corp.example", foreign),
		email("the pipeline's address", builder, foreign),
		email("two at signs", "alice@corp.example@contractors.example", "san_invalid"),
		email("a route", "@contractors.example:alice@corp.example", "san_invalid"),
		email("a percent sign", "alice%corp.example@contractors.example", "a certificate for alice%corp.example@contractors.example"),
		email("a quoted address", `"alice@corp.example"@contractors.example`, "san_invalid"),
		email("a name and an address", "alice@corp.example <mallory@contractors.example>", "san_invalid"),
		email("two addresses", "alice@corp.example,mallory@contractors.example", "san_invalid"),
		email("two addresses the other way round", "mallory@contractors.example,alice@corp.example", "san_invalid"),
		email("an address literal", "alice@[127.0.0.1]", "san_invalid"),
		email("no domain", "alice", "san_invalid"),
		email("no local part", "@contractors.example", "san_invalid"),
		email("a URI", "mailto:alice@corp.example", "san_invalid"),
	}
}

// otherSpellings are characters that some program along the way takes for
// others.
func otherSpellings() []attack {
	return []attack{
		{name: "NUL", mappers: []mapper{object("email", `"alice@corp.example\u0000@contractors.example"`)}, shows: "email", want: "claim_chars"},
		{name: "a new line", mappers: []mapper{object("email", `"mallory@contractors.example\nalice@corp.example"`)}, shows: "email", want: "claim_chars"},
		email("a space in front", " mallory@contractors.example", "san_invalid"),
		email("a dot at the end", "mallory@contractors.example.", "san_invalid"),
		email("a long s in the domain", "mallory@contractorſ.example", "san_invalid"),
		email("a Kelvin sign", "alice\u212a@contractors.example", "san_invalid"),
		email("a full-width at sign", "alice＠corp.example@contractors.example", "san_invalid"),
		email("a dot of another script", "alice@corp。example", "san_invalid"),
		email("a character without width", "alice\u200b@contractors.example", "san_invalid"),
		email("text that runs to the left", "\u202ealice@contractors.example", "claim_chars"),
		email("a domain in punycode", "alice@xn--corp-example.example", foreign),
		email("a local part of 65 octets", strings.Repeat("a", 65)+"@contractors.example", "san_invalid"),
		email("an address of 4000 octets", strings.Repeat("a", 3980)+"@contractors.example", "san_invalid"),
		email("one's own address in upper case", "MALLORY@CONTRACTORS.EXAMPLE", issued),
	}
}

// otherShapes are claims that are not what they are called.
func otherShapes() []attack {
	return []attack{
		{name: "an array of another's address", mappers: []mapper{object("email", `["alice@corp.example"]`)}, shows: alice, want: "token_malformed"},
		{name: "an array of two addresses", mappers: []mapper{object("email", `["mallory@contractors.example","alice@corp.example"]`)}, shows: alice, want: "token_malformed"},
		{name: "an object", mappers: []mapper{object("email", `{"value":"alice@corp.example"}`)}, shows: alice, want: "token_malformed"},
		{name: "a number", mappers: []mapper{claim("email", "long", "7")}, shows: `"email":7`, want: "token_malformed"},
		{name: "not verified", mappers: []mapper{claim("email_verified", "boolean", "false")}, shows: `"email_verified":false`, want: "email_unverified"},
		{name: "verified as text", mappers: []mapper{text("email_verified", "true")}, shows: `"email_verified":"true"`, want: "email_unverified"},
		{name: "verified as a number", mappers: []mapper{claim("email_verified", "int", "1")}, shows: `"email_verified":1`, want: "email_unverified"},
		{name: "verified as an array", mappers: []mapper{object("email_verified", `[true]`)}, shows: `"email_verified":[true]`, want: "email_unverified"},
		{name: "EMAIL beside email", mappers: []mapper{text("EMAIL", alice)}, shows: `"EMAIL":`, want: issued},
		{name: "Email beside email", mappers: []mapper{text("Email", alice)}, shows: `"Email":`, want: issued},
		{name: "EMAIL_VERIFIED beside email_verified", user: map[string]any{"emailVerified": false}, mappers: []mapper{claim("EMAIL_VERIFIED", "boolean", "true")}, shows: `"EMAIL_VERIFIED":true`, want: "email_unverified"},
		{name: "a subject with a long s", mappers: []mapper{text("ſub", alice)}, shows: "ub", want: "token_malformed"},
		{name: "a deep object", mappers: []mapper{object("deep", strings.Repeat("[", 60)+strings.Repeat("]", 60))}, shows: "[[[[", want: "token_malformed"},
		{name: "a claim of 20 KB", mappers: []mapper{object("big", `["`+strings.Repeat("a", 1000)+strings.Repeat(`","`+strings.Repeat("a", 1000), 19)+`"]`)}, shows: "aaaa", want: "token_too_large"},
		{name: "a number beyond all bounds", mappers: []mapper{object("big", "1e999999")}, shows: "big", want: issued},
	}
}

// otherClaims are claims that mean something to somebody.
func otherClaims() []attack {
	return []attack{
		{name: "subject: an address", mappers: []mapper{text("sub", alice)}, shows: alice, want: issued},
		{name: "subject: a URI", mappers: []mapper{text("sub", "https://corp.example/alice")}, shows: "corp.example", want: issued},
		{name: "subject: a SPIFFE ID", mappers: []mapper{text("sub", "spiffe://corp.example/ci")}, shows: "spiffe", want: issued},
		{name: "subject: empty", mappers: []mapper{text("sub", " ")}, shows: `"sub":" "`, want: "sub"},
		{name: "names of another", mappers: []mapper{text("preferred_username", alice), text("upn", alice), text("unique_name", alice), text("name", alice)}, shows: alice, want: issued},
		{name: "verified by Entra", mappers: []mapper{text("email", alice), claim("xms_edov", "boolean", "true")}, shows: "xms_edov", want: foreign},
		{name: "groups of another realm", mappers: []mapper{object("groups", `["/code-signers"]`)}, shows: "code-signers", want: issued},
		{name: "a second factor", mappers: []mapper{text("acr", "mfa"), object("amr", `["otp","hwk"]`)}, shows: "mfa", want: issued},
		{name: "more groups than fit", mappers: []mapper{object("_claim_names", `{"groups":"src1"}`), object("_claim_sources", `{"src1":{"endpoint":"https://127.0.0.1/"}}`)}, shows: "_claim_names", want: issued},
		{name: "claims of a workflow", mappers: []mapper{text("job_workflow_ref", "corp/app/.github/workflows/release.yml@refs/heads/main"), text("repository", "corp/app")}, shows: "job_workflow_ref", want: issued},
		{name: "claims of a service account", mappers: []mapper{object(`kubernetes\.io`, `{"namespace":"prod","serviceaccount":{"name":"ci","uid":"1"}}`)}, shows: `"kubernetes.io"`, want: issued},
		{name: "on behalf of another", mappers: []mapper{object("act", `{"sub":"alice"}`)}, shows: `"act":`, want: "delegated"},
		{name: "may act", mappers: []mapper{object("may_act", `{"sub":"alice"}`)}, shows: `"may_act":`, want: "delegated"},
		{name: "bound to a key", mappers: []mapper{object("cnf", `{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}`)}, shows: `"cnf":`, want: "pop_required"},
		{name: "another client", mappers: []mapper{text("azp", "ci-builder")}, shows: "ci-builder", want: "azp"},
		{name: "another audience beside ours", mappers: []mapper{{"oidc-audience-mapper", map[string]string{"included.custom.audience": "payroll"}}}, shows: "payroll", want: "aud_extra"},
		{name: "valid next century", mappers: []mapper{claim("nbf", "long", "4102444800")}, shows: `"nbf"`, want: "nbf"},
	}
}

// otherTokens are tokens that try to be no ID tokens, or are not signed as
// agreed.
func otherTokens() []attack {
	return []attack{
		// Keycloak lets nobody set these.
		{name: "a long life", mappers: []mapper{claim("exp", "long", "4102444800")}, want: issued},
		{name: "issued tomorrow", mappers: []mapper{claim("iat", "long", "4102444800")}, want: issued},
		{name: "another issuer", mappers: []mapper{text("iss", "https://127.0.0.1/realms/eng")}, want: issued},
		{name: "a refresh token by its type", mappers: []mapper{text("typ", "Refresh")}, want: issued},
		{name: "an access token", token: func(_ testing.TB, _ *keycloak, got tokens) string { return got.Access }, shows: "Bearer", want: "token_type"},
		{name: "signed with the client's secret", client: map[string]string{"id.token.signed.response.alg": "HS256"}, shows: contractor, want: "alg_not_allowed"},
		{name: "signed with an algorithm not agreed", client: map[string]string{"id.token.signed.response.alg": "PS256"}, shows: contractor, want: "alg_not_allowed"},
	}
}
