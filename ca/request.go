package ca

import (
	"context"
	"net/netip"
	"time"
)

// Request is one wish for a certificate, complete with everything that policy
// may look at.
type Request struct {
	Identity Identity
	Key      ProvenKey
	// Time is the single clock reading of this request.
	Time time.Time
	// ID is the request id that the client is told and the journal keeps.
	ID string
	// Source is the client's address after trusted proxies were taken off.
	Source netip.Addr
	// API names the door that the request came through: "rest-v1", "rest-v2" or
	// "grpc". [APISelfTest] marks what nobody asked for.
	API string
	// ConfigDigest is SHA-256 of the configuration in force.
	ConfigDigest [32]byte
}

// Decision is what policy decided about a request.
type Decision struct {
	// Rule is the name of the rule that matched.
	Rule string
	// PolicyDigest is SHA-256 of the policy in force.
	PolicyDigest [32]byte
	SAN          SAN
	// Extensions are build facts for 1.3.6.1.4.1.57264.1.2 to .6 and .9 to .23,
	// in ascending order. The issuer (.1, .8) and the token subject (.24) are
	// not among them: they always come from the identity.
	Extensions []Extension
	// Profile and Authority name the certificate profile and the authority to
	// issue from; empty means "default".
	Profile   string
	Authority string
}

// Extension is one Fulcio extension, 1.3.6.1.4.1.57264.1.Number.
type Extension struct {
	Number int
	Value  string
}

// Policy decides. A request that no rule matches is refused with
// [ReasonPolicy]. A Policy must be safe for concurrent use and must not block.
type Policy func(ctx context.Context, r Request) (Decision, error)
