// Package policy decides which verified identity gets a certificate and what
// the certificate says about it.
//
// A [Policy] answers for the issuers it was made of and refuses everything else.
// An issuer has ordered rules in the Common Expression Language (CEL); the first
// whose condition holds decides, and no rule means no certificate. What a rule
// says is checked when the policy is made: types, sizes, claims that may be
// absent, e-mail addresses that nobody verified.
//
// Invariants, which no rule can switch off:
//
//   - Each issuer speaks only for its own e-mail domains, URI prefixes and
//     username domains, so that no identity provider can vouch for another one's
//     people. Rules only choose among those names.
//   - A name is made by a typed constructor, never by putting text together.
//   - An absent claim is no match. Any other error of a rule is a refusal, and so
//     is a list of groups that the provider left out because it was too long.
//   - Evaluation is bounded by a cost that does not depend on the machine, and
//     does no I/O.
//
// [Preset] has the rules that suit well-known providers, [Policy.Explain] says
// why a request was decided as it was, and [Policy.Test] runs the tests that an
// administrator keeps beside the rules. An issuer without rules has one, named
// "allow-all": whoever the issuer vouches for, within its names.
//
// The package verifies no token, and it does not look for overlaps between
// issuers; the configuration does.
package policy
