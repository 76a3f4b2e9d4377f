package main

import (
	"crypto/tls"
	"fmt"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/site"
	"github.com/mayfly-ca/mayfly/internal/floor"
)

// api is how requests are made.
type api string

const (
	v2   api = "v2"
	v1   api = "v1"
	gRPC api = "gRPC"
)

// row is one kind of request to servers of one kind.
type row struct {
	name   string
	ca     string
	token  string
	client load.Kind
	api    api
	tls    bool
	log    site.LogMode
	fresh  bool // a connection for each request
	spread bool // an address for each client
	alone  bool // Fulcio cannot
}

// usual is the request that every row differs from in one respect.
var usual = row{name: "usual", ca: "P-256", token: site.RS256, client: load.P256, api: v2, log: site.StubLog}

// rows are measured in this order.
func rows() []row {
	all := []row{usual}
	add := func(name string, change func(*row)) {
		r := usual
		r.name = name
		change(&r)
		all = append(all, r)
	}
	add("CA key P-384", func(r *row) { r.ca = "P-384" })
	add("CA key RSA-3072", func(r *row) { r.ca = "RSA-3072" })
	add("token ES256", func(r *row) { r.token = site.ES256 })
	add("client key RSA-2048", func(r *row) { r.client = load.RSA2048 })
	add("client key RSA-4096", func(r *row) { r.client = load.RSA4096 })
	add("client key Ed25519", func(r *row) { r.client = load.Ed25519 })
	add("v1 JSON", func(r *row) { r.api = v1 })
	add("gRPC over TLS", func(r *row) { r.api, r.tls = gRPC, true })
	add("REST over TLS", func(r *row) { r.tls, r.alone = true, true })
	add("a connection each", func(r *row) { r.fresh = true })
	add("no log", func(r *row) { r.log = site.NoLog })
	add("real remote log", func(r *row) { r.log = site.RealLog })
	add("embedded log", func(r *row) { r.log, r.alone = site.EmbeddedLog, true })
	return all
}

// floors are the public-key operations of both designs in this row. Fulcio's is
// nil where it cannot do the work.
func (r row) floors() (mayfly, fulcio *floor.Floor, err error) {
	spec := floor.Spec{Design: floor.Mayfly, CAKey: r.ca, Token: r.token, Client: string(r.client), Log: floor.LogRemote}
	switch r.log {
	case site.NoLog:
		spec.Log = floor.LogNone
	case site.EmbeddedLog:
		spec.Log = floor.LogEmbedded
	}
	if mayfly, err = floor.New(spec); err != nil {
		return nil, nil, fmt.Errorf("making the floor of Mayfly: %w", err)
	}
	if r.alone {
		return mayfly, nil, nil
	}
	spec.Design = floor.Fulcio
	if fulcio, err = floor.New(spec); err != nil {
		return nil, nil, fmt.Errorf("making the floor of Fulcio: %w", err)
	}
	return mayfly, fulcio, nil
}

// dial lays out the row's requests to a server.
func (r row) dial(s *site.Site, server *site.Server, ca site.CA, applicants []load.Applicant) (load.Dial, error) {
	expected := load.Expected{Issuing: ca.Issuing, SCT: r.log != site.NoLog}
	secure := &tls.Config{RootCAs: s.Roots(), ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
	if r.api == gRPC {
		g := &load.GRPC{Address: server.GRPC, TLS: secure, Expected: expected}
		g.Prepare(applicants)
		return g.Dial, nil
	}
	rest := &load.REST{Address: server.REST, Fresh: r.fresh, Expected: expected}
	if r.tls {
		secure.NextProtos = []string{"http/1.1"}
		rest.TLS = secure
	}
	if r.fresh || r.spread {
		// Of one address, the ports would run out.
		rest.Source = load.SourceIn(1)
	}
	layOut := rest.V2
	if r.api == v1 {
		layOut = rest.V1
	}
	return rest.Dial, layOut(applicants)
}
