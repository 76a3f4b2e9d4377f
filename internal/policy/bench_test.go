package policy_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/policy"
)

// BenchmarkDecide is to be compared with BenchmarkRS256Verify: deciding must cost
// less than checking the token's signature.
func BenchmarkDecide(b *testing.B) {
	for _, tc := range []struct {
		preset, issuer string
		claims         claims
	}{
		{"keycloak", realm, keycloakUser}, {"entra", entraV2, entraUser}, {"github", actions, githubRun}, {"gitlab", gitlab, gitlabUser},
		{"kubernetes", cluster, pod},
	} {
		p, r := preset(b, tc.preset), tokenOf(b, tc.issuer, tc.claims)
		b.Run(tc.preset, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Decide(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	groups := make([]string, 200)
	for i := range groups {
		groups[i] = "/some/group/of/many"
	}
	groups[199] = "/code-signers"
	p := mustPolicy(b, people(policy.Rule{
		Name: "developers", SAN: `email(claims.email)`, When: `claims.email_verified == true && "/code-signers" in list(claims.groups) && ` +
			`claims.acr == "mfa" && recent(claims.auth_time, now, duration("15m")) && token.azp == "codesign-cli"`,
	}))
	r := tokenOf(b, realm, keycloakUser.with(claims{"groups": groups}))
	b.Run("200 groups", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Decide(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDecideRules: rules of other issuers cost nothing, for an issuer is
// found by its name; those of one issuer are tried in order, and it has no more
// than 200.
func BenchmarkDecideRules(b *testing.B) {
	rule := policy.Rule{
		Name: "developers", SAN: `email(claims.email)`,
		When: `"/code-signers" in claims.groups && claims.acr == "mfa" && claims.email_verified == true`,
	}
	r := tokenOf(b, realm, keycloakUser.with(claims{"groups": []string{"/staff", "/code-signers"}}))
	decide := func(b *testing.B, p *policy.Policy) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Decide(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	}
	several := func(n int, when string) (rules []policy.Rule) {
		for i := range n {
			rules = append(rules, policy.Rule{Name: fmt.Sprintf("rule-%d", i), When: when, SAN: rule.SAN})
		}
		return rules
	}
	for _, others := range []int{0, 100, 10_000} {
		b.Run(fmt.Sprintf("of other issuers/%d", others), func(b *testing.B) {
			issuers := []policy.Issuer{people(rule)}
			for i := 0; i < others; i += 100 {
				other := people(several(100, "claims.email_verified == true")...)
				other.Name = fmt.Sprintf("other-%d", i)
				issuers = append(issuers, other)
			}
			decide(b, mustPolicy(b, issuers...))
		})
	}
	for _, before := range []int{0, 10, 199} {
		b.Run(fmt.Sprintf("before the one that matches/%d", before), func(b *testing.B) {
			decide(b, mustPolicy(b, people(append(several(before, `"/nobody" in claims.groups && claims.email_verified == true`), rule)...)))
		})
	}
}

// BenchmarkRS256Verify is the yardstick.
func BenchmarkRS256Verify(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("token"))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
			b.Fatal(err)
		}
	}
}
