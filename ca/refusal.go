package ca

import (
	"errors"
	"fmt"
	"time"
)

// Kind says whose fault a refusal is; it decides how transports answer and
// whether clients may try again.
type Kind int

// The kinds of refusal.
const (
	// KindInternal is a fault of ours.
	KindInternal Kind = iota
	// KindInvalid is a request that can never succeed as it is.
	KindInvalid
	// KindDenied is a verified identity that policy turned away.
	KindDenied
	// KindExhausted is a limit or quota; try later.
	KindExhausted
	// KindUnavailable is an outage of something we depend on; try later.
	KindUnavailable
)

// Reason is a stable code for why a request was refused. Clients, metrics and
// audit records show it; it never changes meaning.
type Reason string

// Reasons about the shape of a request.
const (
	ReasonRequestMalformed Reason = "request_malformed"
	ReasonRequestTooLarge  Reason = "request_too_large"
	ReasonMethod           Reason = "method_not_allowed"
	ReasonNotFound         Reason = "not_found"
	ReasonDeadline         Reason = "deadline_exceeded"
	ReasonRateLimited      Reason = "rate_limited"
	ReasonOverloaded       Reason = "overloaded"
	ReasonInternal         Reason = "internal"
)

// Reasons about the token.
const (
	ReasonTokenMissing    Reason = "token_missing"
	ReasonTokenConflict   Reason = "token_conflict" // two different tokens in one request
	ReasonTokenMalformed  Reason = "token_malformed"
	ReasonTokenTooLarge   Reason = "token_too_large"
	ReasonTokenEncrypted  Reason = "token_encrypted"
	ReasonTokenType       Reason = "token_type"
	ReasonAlgNotAllowed   Reason = "alg_not_allowed"
	ReasonIssuerUnknown   Reason = "issuer_unknown"
	ReasonKeyUnknown      Reason = "key_unknown"
	ReasonKeyUse          Reason = "key_use"
	ReasonKeyAlgMismatch  Reason = "key_alg_mismatch"
	ReasonBadSignature    Reason = "bad_signature"
	ReasonClaimChars      Reason = "claim_chars"
	ReasonAudience        Reason = "aud"
	ReasonAudienceExtra   Reason = "aud_extra"
	ReasonAuthorizedParty Reason = "azp"
	ReasonExpMalformed    Reason = "exp_malformed"
	ReasonExpired         Reason = "expired"
	ReasonIssuedAt        Reason = "iat"
	ReasonNotBefore       Reason = "nbf"
	ReasonLifetime        Reason = "token_lifetime"
	ReasonSubject         Reason = "sub"
	ReasonDelegated       Reason = "delegated"
	ReasonPopRequired     Reason = "pop_required" // sender-constrained token (cnf)
	ReasonEmailUnverified Reason = "email_unverified"
	ReasonIdpKeysMissing  Reason = "idp_keys_unavailable" // no key set fetched yet
	ReasonIdpKeysStale    Reason = "idp_keys_stale"       // past max_stale
	ReasonKeyIssuer       Reason = "key_issuer"           // the key is for another issuer or tenant
	ReasonKeyBlocked      Reason = "key_blocked"          // by an administrator
	ReasonTokenReused     Reason = "token_reused"
	ReasonTokenQuota      Reason = "token_quota" // certificates per token
	ReasonGuest           Reason = "guest"       // a visitor from another directory
	ReasonGroupsOverage   Reason = "groups_overage"
)

// Reasons about the client's key and its proof.
const (
	ReasonKeyMissing     Reason = "key_missing"
	ReasonKeyMalformed   Reason = "key_malformed"
	ReasonKeyUnsupported Reason = "key_unsupported"
	ReasonKeyWeak        Reason = "key_weak"
	ReasonKeyNotAllowed  Reason = "key_not_allowed" // by the profile
	ReasonProofInvalid   Reason = "proof_invalid"
	ReasonCSRMalformed   Reason = "csr_malformed"
	ReasonCSRAlgorithm   Reason = "csr_algorithm"
	ReasonCSRSignature   Reason = "csr_signature"
)

// Reasons of policy and issuance.
const (
	ReasonPolicy           Reason = "policy"
	ReasonMFARequired      Reason = "mfa_required" // a stronger login would do
	ReasonAuthTooOld       Reason = "auth_too_old" // a fresh login would do
	ReasonFrozen           Reason = "frozen"       // by the administrator, for now
	ReasonSANInvalid       Reason = "san_invalid"
	ReasonSANNotAllowed    Reason = "san_not_allowed"
	ReasonNameNotPermitted Reason = "name_not_permitted" // by the chain's name constraints
	ReasonAuthority        Reason = "wrong_authority"    // policy chose another than the address
	ReasonNoActiveChain    Reason = "no_active_chain"
	ReasonChainExpiring    Reason = "chain_expiring"
	ReasonSignerFailed     Reason = "signer_unavailable"
	ReasonLogFailed        Reason = "log_unavailable"
	ReasonAuditFailed      Reason = "audit_unavailable"
	ReasonClock            Reason = "clock_unsafe"
	ReasonSelfTest         Reason = "self_test"         // in records only
	ReasonProfileViolation Reason = "profile_violation" // the judge found a difference
)

// Refusal is the one error type that reaches a client. Its cause is for logs
// and the journal only; transports answer with a fixed text for the reason.
type Refusal struct {
	Reason Reason
	Kind   Kind
	// RetryAfter is when trying again makes sense; zero when unknown.
	RetryAfter time.Duration
	// Uncertain says that there may be a certificate nevertheless: it was being
	// made, and what became of it could not be recorded. Without it, an outage has
	// left none.
	Uncertain bool
	// Err is the cause, for the operator.
	Err error
}

// Error describes the refusal for operators, cause included.
func (r *Refusal) Error() string {
	if r.Err == nil {
		return string(r.Reason)
	}
	return fmt.Sprintf("%s: %v", r.Reason, r.Err)
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// Refuse returns a Refusal with a formatted cause; %w works as in fmt.Errorf.
func Refuse(kind Kind, reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Kind: kind, Reason: reason, Err: fmt.Errorf(format, args...)}
}

// AsRefusal returns the refusal in err's chain. Any other error becomes an
// internal one, because an error that nobody classified is a bug.
func AsRefusal(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	return &Refusal{Kind: KindInternal, Reason: ReasonInternal, Err: err}
}
