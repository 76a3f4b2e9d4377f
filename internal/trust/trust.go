// Package trust makes the two files that Sigstore clients take their trust
// from: the trusted root, which says whom to believe, and the signing
// configuration, which says whom to ask.
//
// Invariants:
//
//   - the same input gives the same bytes, so that the files can carry an ETag;
//   - a file is made only from input that stock clients can use: chains in
//     order, ECDSA P-256 log keys, absolute URLs. Everything else is an error,
//     because a client that is handed a bad file fails far from its cause.
//
// The package does not fetch, serve or sign anything, and it does not decide
// which chains and logs are published. The files are only as trustworthy as the
// way on which they reach a client.
package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	commonv1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustrootv1 "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Media types of the two files, as their mediaType member has them.
const (
	// MediaTypeTrustedRoot is version 0.1, the one that every client reads:
	// sigstore-go takes no other.
	MediaTypeTrustedRoot = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
	// MediaTypeSigningConfig is version 0.2, the one in use.
	MediaTypeSigningConfig = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
)

// Input is what the files are made from.
type Input struct {
	// PublicURL is where clients reach the CA. Clients append "/api/v2/…" as it
	// stands, so a slash at its end is left out of the files. Required.
	PublicURL string
	// Operator names who runs the CA, as a URI without scheme; empty is the
	// host of PublicURL.
	Operator string
	// Chains are the published chains, at least one.
	Chains []Chain
	// Logs are the certificate transparency logs whose SCTs may be in
	// certificates; none when logging is disabled.
	Logs []Log
	// TSAs are the timestamp authorities for clients to use.
	TSAs []TSA
	// Issuers are the identity providers for clients to log in at, the one that
	// people use first.
	Issuers []Issuer
}

// Chain is a certificate chain that leaf certificates are issued from.
type Chain struct {
	// Certificates are the issuing certificate first and the root last.
	Certificates []*x509.Certificate
	// Start and End bound the times at which the chain signs. Zero is open: from
	// when the last certificate of the chain became valid, without end.
	Start, End time.Time
}

// Log is a certificate transparency log.
type Log struct {
	// URL is the log's submission or monitoring prefix. It names the log to
	// people; clients do not call it.
	URL string
	// PublicKeyDER is the SubjectPublicKeyInfo of the log's P-256 key.
	PublicKeyDER []byte
	// Start and End bound the timestamps of the log's SCTs; zero is open.
	Start, End time.Time
}

// TSA is an RFC 3161 timestamp authority.
type TSA struct {
	// URL is where timestamp queries are sent, complete with its path.
	URL string
	// Certificates are the signing certificate first and the root last.
	Certificates []*x509.Certificate
	// Start and End bound the timestamps to believe; zero is open.
	Start, End time.Time
}

// Issuer is an OpenID provider.
type Issuer struct {
	// URL is the issuer URL, byte for byte as in tokens and discovery.
	URL string
}

// TrustedRoot returns trusted_root.json.
func TrustedRoot(in Input) ([]byte, error) {
	if err := in.check(); err != nil {
		return nil, fmt.Errorf("making trusted root: %w", err)
	}
	root := &trustrootv1.TrustedRoot{MediaType: MediaTypeTrustedRoot}
	for _, c := range in.Chains {
		root.CertificateAuthorities = append(root.CertificateAuthorities,
			authority(in.base(), c.Certificates, span(c.start(), c.End)))
	}
	for _, l := range in.Logs {
		root.Ctlogs = append(root.Ctlogs, l.instance())
	}
	for _, t := range in.TSAs {
		root.TimestampAuthorities = append(root.TimestampAuthorities,
			authority(t.URL, t.Certificates, span(t.start(), t.End)))
	}
	return encode(root)
}

// SigningConfig returns signing_config.json.
func SigningConfig(in Input) ([]byte, error) {
	if err := in.check(); err != nil {
		return nil, fmt.Errorf("making signing configuration: %w", err)
	}
	start := in.start()
	config := &trustrootv1.SigningConfig{
		MediaType: MediaTypeSigningConfig,
		// Version 1 is of the service in this file, not of the API: clients call
		// /api/v2 for it.
		CaUrls: []*trustrootv1.Service{service(in.base(), in.operator(), start, time.Time{})},
	}
	for i, issuer := range in.Issuers {
		config.OidcUrls = append(config.OidcUrls, service(issuer.URL, in.operator(), before(start, i), time.Time{}))
	}
	for i, t := range in.TSAs {
		from := t.Start
		if from.IsZero() {
			from = before(start, i)
		}
		// Clients use at most one service of an operator, so each host is one.
		config.TsaUrls = append(config.TsaUrls, service(t.URL, host(t.URL), from, t.End))
	}
	// A selector without services, even an empty rekorTlogConfig, makes npm's
	// client look for one and fail.
	if len(in.TSAs) > 0 {
		config.TsaConfig = &trustrootv1.ServiceConfiguration{Selector: trustrootv1.ServiceSelector_ANY}
	}
	return encode(config)
}

// before staggers the start of services by their place in the list. Clients
// order services by start, newest first, and differ on ties: npm's takes the
// first of the list and sigstore-go the last. Without ties, all take the first.
func before(start time.Time, place int) time.Time {
	return start.Add(-time.Duration(place) * time.Second)
}

// base is PublicURL as clients append paths to it.
func (in Input) base() string { return strings.TrimRight(in.PublicURL, "/") }

func (in Input) operator() string {
	if in.Operator != "" {
		return in.Operator
	}
	return host(in.PublicURL)
}

// start is since when services are there to be asked: as long as any published
// certificate. It is early on purpose. A client whose clock is behind a start
// believes that there is no CA at all, and a rotation should not move it.
func (in Input) start() time.Time {
	start := in.Chains[0].Certificates[0].NotBefore
	for _, c := range in.Chains {
		for _, cert := range c.Certificates {
			if cert.NotBefore.Before(start) {
				start = cert.NotBefore
			}
		}
	}
	return start
}

// start is the given start or what the file format says is the earliest one:
// the beginning of "the longest interval when *all* certificates in the chain
// were valid". It is never absent, since sigstore-python takes an interval
// without a start for one that is never.
func (c Chain) start() time.Time {
	if !c.Start.IsZero() {
		return c.Start
	}
	return latestNotBefore(c.Certificates)
}

// start is as for chains.
func (t TSA) start() time.Time {
	if !t.Start.IsZero() {
		return t.Start
	}
	return latestNotBefore(t.Certificates)
}

func latestNotBefore(certs []*x509.Certificate) time.Time {
	var latest time.Time
	for _, cert := range certs {
		if cert.NotBefore.After(latest) {
			latest = cert.NotBefore
		}
	}
	return latest
}

func authority(uri string, certs []*x509.Certificate, valid *commonv1.TimeRange) *trustrootv1.CertificateAuthority {
	root := certs[len(certs)-1].Subject
	subject := &commonv1.DistinguishedName{CommonName: root.CommonName}
	if len(root.Organization) > 0 {
		subject.Organization = root.Organization[0]
	}
	chain := new(commonv1.X509CertificateChain)
	for _, cert := range certs {
		chain.Certificates = append(chain.Certificates, &commonv1.X509Certificate{RawBytes: cert.Raw})
	}
	// No operator: it belongs to version 0.2, and clients that were built before
	// it refuse unknown members.
	return &trustrootv1.CertificateAuthority{Subject: subject, Uri: uri, CertChain: chain, ValidFor: valid}
}

func service(url, operator string, start, end time.Time) *trustrootv1.Service {
	return &trustrootv1.Service{Url: url, MajorApiVersion: 1, ValidFor: span(start, end), Operator: operator}
}

func span(start, end time.Time) *commonv1.TimeRange {
	r := &commonv1.TimeRange{Start: timestamppb.New(start)}
	if !end.IsZero() {
		r.End = timestamppb.New(end)
	}
	return r
}

// host returns the host name of a URL that was checked.
func host(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// encode writes JSON that is the same each time. protojson varies its spacing
// from build to build on purpose; indenting replaces all of it.
func encode(m proto.Message) ([]byte, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, fmt.Errorf("indenting %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
