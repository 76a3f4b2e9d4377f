package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// route is one path of the REST API.
type route struct {
	// method is POST, or GET, which includes HEAD.
	method string
	quiet  bool
	// api is set on the routes that issue.
	api    string
	handle func(w http.ResponseWriter, r *http.Request, c *call) error
}

func (s *Server) restRoutes() map[string]route {
	return map[string]route{
		"/api/v1/signingCert":        {method: http.MethodPost, api: "rest-v1", handle: s.signingCertV1},
		"/api/v2/signingCert":        {method: http.MethodPost, api: "rest-v2", handle: s.signingCertV2},
		"/api/v1/rootCert":           {method: http.MethodGet, handle: s.rootCert},
		"/api/v2/trustBundle":        {method: http.MethodGet, handle: s.restTrustBundle},
		"/api/v2/configuration":      {method: http.MethodGet, handle: s.restConfiguration},
		"/trust/trusted_root.json":   {method: http.MethodGet, handle: document(func(c *call) func() []byte { return c.snapshot.TrustedRoot })},
		"/trust/signing_config.json": {method: http.MethodGet, handle: document(func(c *call) func() []byte { return c.snapshot.SigningConfig })},
		"/healthz":                   {method: http.MethodGet, quiet: true, handle: s.healthz},
		"/readyz":                    {method: http.MethodGet, quiet: true, handle: s.readyz},
	}
}

// serveREST finds the route and calls it. Paths are cleaned first: clients put
// "/api/v2/signingCert" after a base URL that may end in a slash.
func (s *Server) serveREST(w http.ResponseWriter, r *http.Request, c *call) {
	ctx, cancel := context.WithDeadline(r.Context(), s.deadline(c))
	defer cancel()
	r = r.WithContext(ctx)
	// RFC 9110, Section 14.2: "A server MAY ignore the Range header field." No
	// client needs it, and thousands of ranges of a byte each, in one header,
	// make an answer of a hundred times the request and of the document.
	r.Header.Del("Range")

	rt, found := s.find(cleaned(r.URL.Path), c)
	c.quiet, c.api = rt.quiet, rt.api
	var err error
	switch {
	case !found:
		c.route = "other"
		err = ca.Refuse(ca.KindInvalid, ca.ReasonNotFound, "no such path")
	case r.Method != rt.method && (r.Method != http.MethodHead || rt.method != http.MethodGet):
		w.Header().Set("Allow", rt.method)
		err = ca.Refuse(ca.KindInvalid, ca.ReasonMethod, "method is not %s", rt.method)
	default:
		err = rt.handle(w, r, c)
	}
	if err != nil {
		c.refuseREST(w, err)
	}
}

// cleaned is a path without doubled slashes, dots and a slash at its end.
func cleaned(p string) string {
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return path.Clean(p) // which returns what is clean as it is
}

// find returns the route of a path: one of ours, of a mount, or one of ours below
// a prefix.
func (s *Server) find(clean string, c *call) (route, bool) {
	rt, found := s.routes[clean]
	if !found {
		if rt, found := s.mounted(clean, c); found {
			return rt, true
		}
		if clean, found = c.within(clean); found {
			rt, found = s.routes[clean]
		}
	}
	if found {
		c.route = clean
	}
	return rt, found
}

// mounted returns the route of the mount that the path lies in.
func (s *Server) mounted(clean string, c *call) (route, bool) {
	for _, m := range s.cfg.Mounts {
		if !under(clean, m.Prefix) {
			continue
		}
		c.route = m.Prefix
		return route{method: http.MethodGet, quiet: true, handle: func(w http.ResponseWriter, r *http.Request, _ *call) error {
			http.StripPrefix(m.Prefix, m.Handler).ServeHTTP(w, withPath(r, clean))
			return nil
		}}, true
	}
	return route{}, false
}

func withPath(r *http.Request, clean string) *http.Request {
	u := *r.URL
	u.Path, u.RawPath = clean, ""
	r = r.WithContext(r.Context())
	r.URL = &u
	return r
}

// issueREST is what both versions of signingCert share.
func (s *Server) issueREST(w http.ResponseWriter, r *http.Request, c *call, decode func([]byte) (input, error)) (ca.Certificate, error) {
	w.Header().Set("Cache-Control", "no-store")
	in, err := func() (input, error) {
		if err := s.limitAddress(c); err != nil {
			return input{}, err
		}
		body, err := readBody(w, r)
		if err != nil {
			return input{}, err
		}
		return decode(body)
	}()
	if err != nil {
		s.cfg.CountRefusal(refusalOf(err).Reason)
		return ca.Certificate{}, err
	}
	return s.issue(r.Context(), c, in)
}

// signingCertV2 answers 200 and JSON; sigstore-go takes no other 2xx.
func (s *Server) signingCertV2(w http.ResponseWriter, r *http.Request, c *call) error {
	cert, err := s.issueREST(w, r, c, decodeV2)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, certificateJSON(cert.PEM(), cert.HasSCT()))
	return nil
}

// signingCertV1 answers 201 and PEM; the clients of this version take no other
// 2xx. There is no SCT header, which exists for detached SCTs alone.
func (s *Server) signingCertV1(w http.ResponseWriter, r *http.Request, c *call) error {
	cert, err := s.issueREST(w, r, c, decodeV1)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", pemChainType)
	writeBody(w, http.StatusCreated, chainPEM(cert.PEM()))
	return nil
}

const pemChainType = "application/pem-certificate-chain"

// rootCert returns the chain that signs now.
func (s *Server) rootCert(w http.ResponseWriter, r *http.Request, c *call) error {
	chains := c.snapshot.Chains()
	if len(chains) == 0 {
		return ca.Refuse(ca.KindUnavailable, ca.ReasonNoActiveChain, "no chain is published")
	}
	w.Header().Set("Content-Type", pemChainType)
	cacheable(w, r, []byte(strings.Join(lines(chains[0]), "")))
	return nil
}

func (s *Server) restTrustBundle(w http.ResponseWriter, r *http.Request, c *call) error {
	w.Header().Set("Content-Type", "application/json")
	cacheable(w, r, marshalJSON(trustBundle(c.snapshot)))
	return nil
}

func trustBundle(snapshot *Snapshot) *fulciov2.TrustBundle {
	bundle := new(fulciov2.TrustBundle)
	for _, chain := range snapshot.Chains() {
		bundle.Chains = append(bundle.Chains, &fulciov2.CertificateChain{Certificates: lines(chain)})
	}
	return bundle
}

func (s *Server) restConfiguration(w http.ResponseWriter, r *http.Request, c *call) error {
	w.Header().Set("Content-Type", "application/json")
	cacheable(w, r, marshalJSON(configuration(c.snapshot)))
	return nil
}

func configuration(snapshot *Snapshot) *fulciov2.Configuration {
	cfg := new(fulciov2.Configuration)
	for _, i := range snapshot.Issuers {
		cfg.Issuers = append(cfg.Issuers, &fulciov2.OIDCIssuer{
			Issuer:            &fulciov2.OIDCIssuer_IssuerUrl{IssuerUrl: i.URL},
			Audience:          i.Audience,
			ChallengeClaim:    i.ChallengeClaim,
			SpiffeTrustDomain: i.SPIFFETrustDomain,
			IssuerType:        i.Type,
			SubjectDomain:     i.SubjectDomain,
		})
	}
	return cfg
}

// document serves one of the snapshot's JSON documents.
func document(of func(*call) func() []byte) func(http.ResponseWriter, *http.Request, *call) error {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		var body []byte
		if source := of(c); source != nil {
			body = source()
		}
		if len(body) == 0 {
			return ca.Refuse(ca.KindInvalid, ca.ReasonNotFound, "no such document in this configuration")
		}
		w.Header().Set("Content-Type", "application/json")
		cacheable(w, r, body)
		return nil
	}
}

// cacheable answers with a body that seldom changes. Five minutes are short
// beside the day that a chain is published before it may sign.
func cacheable(w http.ResponseWriter, r *http.Request, body []byte) {
	digest := sha256.Sum256(body)
	h := w.Header()
	h.Set("Etag", `"`+hex.EncodeToString(digest[:16])+`"`)
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// healthz has the form of Fulcio's, and unlike it tells when the server drains.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request, _ *call) error {
	w.Header().Set("Cache-Control", "no-store")
	if s.isServing() {
		writeJSON(w, http.StatusOK, []byte(`{"status":"SERVING"}`))
	} else {
		writeJSON(w, http.StatusServiceUnavailable, []byte(`{"status":"NOT_SERVING"}`))
	}
	return nil
}

// readyz shows names and booleans and nothing else: it is public.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request, _ *call) error {
	answer := struct {
		Ready      bool            `json:"ready"`
		Components map[string]bool `json:"components"`
	}{Ready: s.isServing(), Components: map[string]bool{}}
	for name, ready := range s.cfg.Ready() {
		answer.Components[name] = ready
		answer.Ready = answer.Ready && ready
	}
	for name, well := range s.cfg.Shown() {
		answer.Components[name] = well
	}
	body, err := json.Marshal(answer)
	if err != nil {
		panic("server: names and booleans always marshal: " + err.Error()) //nolint:forbidigo // says which
	}
	code := http.StatusOK
	if !answer.Ready {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, code, body)
	return nil
}
