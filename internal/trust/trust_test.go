package trust_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	commonv1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustrootv1 "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/internal/trust"
)

var update = flag.Bool("update", false, "write the golden files anew")

func certificates(t testing.TB, file string) []*x509.Certificate {
	t.Helper()
	rest, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return certs
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
}

func logKey(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/log.pub")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	return block.Bytes
}

func newKeyDER(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func day(month time.Month) time.Time { return time.Date(2027, month, 1, 0, 0, 0, 0, time.UTC) }

// newChain makes a chain of two, the issuing certificate first, that became valid
// at different times.
func newChain(t testing.TB, issuing, root time.Time, usage x509.ExtKeyUsage) []*x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := func(name string, from time.Time) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: day(time.December),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	sign := func(cert, parent *x509.Certificate) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	anchor := template("root", root)
	below := template("issuing", issuing)
	below.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	return []*x509.Certificate{sign(below, anchor), sign(anchor, anchor)}
}

// full is an input with everything: two chains in rotation, a log, timestamps,
// two identity providers.
func full(t testing.TB) trust.Input {
	return trust.Input{
		PublicURL: "https://ca.corp.example/",
		Operator:  "corp.example",
		Chains: []trust.Chain{
			{Certificates: certificates(t, "chain-g2.pem"), Start: day(time.March)},
			{Certificates: certificates(t, "chain-g1.pem"), End: day(time.April)},
		},
		Logs: []trust.Log{{URL: "https://ca.corp.example/log/2027", PublicKeyDER: logKey(t), Start: day(time.January), End: day(time.December)}},
		TSAs: []trust.TSA{{URL: "https://tsa.corp.example/api/v1/timestamp", Certificates: certificates(t, "tsa.pem")}},
		Issuers: []trust.Issuer{
			{URL: "https://keycloak.corp.example/realms/people"},
			{URL: "https://gitlab.corp.example/"},
		},
	}
}

// minimal is the least that makes a file.
func minimal(t testing.TB) trust.Input {
	return trust.Input{PublicURL: "http://127.0.0.1:8080", Chains: []trust.Chain{{Certificates: certificates(t, "chain-g1.pem")}}}
}

func trustedRoot(t testing.TB, in trust.Input) ([]byte, *trustrootv1.TrustedRoot) {
	t.Helper()
	text, err := trust.TrustedRoot(in)
	if err != nil {
		t.Fatal(err)
	}
	root := new(trustrootv1.TrustedRoot)
	if err := protojson.Unmarshal(text, root); err != nil {
		t.Fatalf("reading the trusted root again: %v\n%s", err, text)
	}
	return text, root
}

func signingConfig(t testing.TB, in trust.Input) ([]byte, *trustrootv1.SigningConfig) {
	t.Helper()
	text, err := trust.SigningConfig(in)
	if err != nil {
		t.Fatal(err)
	}
	config := new(trustrootv1.SigningConfig)
	if err := protojson.Unmarshal(text, config); err != nil {
		t.Fatalf("reading the signing configuration again: %v\n%s", err, text)
	}
	return text, config
}

func TestGoldenFiles(t *testing.T) {
	for suffix, in := range map[string]trust.Input{"": full(t), "_minimal": minimal(t)} {
		root, _ := trustedRoot(t, in)
		config, _ := signingConfig(t, in)
		for name, got := range map[string][]byte{"trusted_root": root, "signing_config": config} {
			file := filepath.Join("testdata", name+suffix+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
			}
		}
	}
}

// The input is built anew each time, so that no order of a map or address of
// anything can be what the bytes depend on.
func TestSameInputGivesSameBytes(t *testing.T) {
	root, _ := trustedRoot(t, full(t))
	config, _ := signingConfig(t, full(t))
	for range 50 {
		if again, _ := trustedRoot(t, full(t)); !bytes.Equal(again, root) {
			t.Fatalf("trusted root: got\n%s\nafter\n%s", again, root)
		}
		if again, _ := signingConfig(t, full(t)); !bytes.Equal(again, config) {
			t.Fatalf("signing configuration: got\n%s\nafter\n%s", again, config)
		}
	}
}

func TestTrustedRootHoldsWhatWasPutIn(t *testing.T) {
	in := full(t)
	_, root := trustedRoot(t, in)
	if got := root.GetMediaType(); got != "application/vnd.dev.sigstore.trustedroot+json;version=0.1" {
		t.Errorf("media type: got %q", got)
	}
	if got := len(root.GetCertificateAuthorities()); got != 2 {
		t.Fatalf("got %d authorities, want 2", got)
	}
	for i, want := range in.Chains {
		got := root.GetCertificateAuthorities()[i]
		wantChain(t, got, want.Certificates)
		if got.GetUri() != "https://ca.corp.example" || got.GetSubject().GetCommonName() != "Corp Example Root R1" {
			t.Errorf("authority %d: got %q, %v", i, got.GetUri(), got.GetSubject())
		}
	}
	// Open beginnings are when the last certificate became valid.
	wantSpan(t, "first chain", root.GetCertificateAuthorities()[0].GetValidFor(), day(time.March), time.Time{})
	issuing, anchor := in.Chains[1].Certificates[0], in.Chains[1].Certificates[1]
	latest := issuing.NotBefore
	if anchor.NotBefore.After(latest) {
		latest = anchor.NotBefore
	}
	wantSpan(t, "second chain", root.GetCertificateAuthorities()[1].GetValidFor(), latest, day(time.April))

	if got := len(root.GetCtlogs()); got != 1 {
		t.Fatalf("got %d logs, want 1", got)
	}
	log, id := root.GetCtlogs()[0], sha256.Sum256(logKey(t))
	if !bytes.Equal(log.GetLogId().GetKeyId(), id[:]) || !bytes.Equal(log.GetPublicKey().GetRawBytes(), logKey(t)) ||
		log.GetHashAlgorithm() != commonv1.HashAlgorithm_SHA2_256 ||
		log.GetPublicKey().GetKeyDetails() != commonv1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256 ||
		log.GetBaseUrl() != in.Logs[0].URL {
		t.Errorf("log: got %v", log)
	}
	wantSpan(t, "log", log.GetPublicKey().GetValidFor(), day(time.January), day(time.December))

	if got := len(root.GetTimestampAuthorities()); got != 1 {
		t.Fatalf("got %d timestamp authorities, want 1", got)
	}
	wantChain(t, root.GetTimestampAuthorities()[0], in.TSAs[0].Certificates)
}

func wantChain(t *testing.T, got *trustrootv1.CertificateAuthority, want []*x509.Certificate) {
	t.Helper()
	same := slices.EqualFunc(got.GetCertChain().GetCertificates(), want, func(g *commonv1.X509Certificate, w *x509.Certificate) bool {
		return bytes.Equal(g.GetRawBytes(), w.Raw)
	})
	if !same {
		t.Errorf("%s: chain is not what was put in, in that order", got.GetUri())
	}
}

func wantSpan(t *testing.T, what string, got *commonv1.TimeRange, start, end time.Time) {
	t.Helper()
	if !got.GetStart().AsTime().Equal(start) || (got.GetEnd() == nil) != end.IsZero() || !end.IsZero() && !got.GetEnd().AsTime().Equal(end) {
		t.Errorf("%s: got valid for %v, want %v to %v", what, got, start, end)
	}
}

// sigstore-go refuses a log and sigstore-python disbelieves an interval without
// a start.
func TestEveryIntervalHasAStart(t *testing.T) {
	in := full(t)
	for i := range in.Chains {
		in.Chains[i].Start, in.Chains[i].End = time.Time{}, time.Time{}
	}
	in.Logs[0].Start, in.Logs[0].End = time.Time{}, time.Time{}
	_, root := trustedRoot(t, in)
	var spans []*commonv1.TimeRange
	for _, c := range slices.Concat(root.GetCertificateAuthorities(), root.GetTimestampAuthorities()) {
		spans = append(spans, c.GetValidFor())
	}
	for _, l := range root.GetCtlogs() {
		spans = append(spans, l.GetPublicKey().GetValidFor())
	}
	_, config := signingConfig(t, in)
	for _, s := range slices.Concat(config.GetCaUrls(), config.GetOidcUrls(), config.GetTsaUrls()) {
		spans = append(spans, s.GetValidFor())
	}
	if len(spans) != 8 {
		t.Errorf("got %d intervals, want 8", len(spans))
	}
	for _, s := range spans {
		if s.GetStart() == nil || s.GetStart().AsTime().After(day(time.January)) || s.GetEnd() != nil {
			t.Errorf("got %v, want a start in the past and no end", s)
		}
	}
}

func TestSigningConfigNamesServicesAsClientsCallThem(t *testing.T) {
	_, config := signingConfig(t, full(t))
	for _, c := range []struct {
		what string
		got  []*trustrootv1.Service
		want []string
	}{
		{"CA", config.GetCaUrls(), []string{"https://ca.corp.example"}}, // clients append "/api/v2/signingCert"
		{"OIDC", config.GetOidcUrls(), []string{"https://keycloak.corp.example/realms/people", "https://gitlab.corp.example/"}},
		{"TSA", config.GetTsaUrls(), []string{"https://tsa.corp.example/api/v1/timestamp"}},
	} {
		var urls []string
		for i, s := range c.got {
			urls = append(urls, s.GetUrl())
			if s.GetMajorApiVersion() != 1 || s.GetOperator() == "" {
				t.Errorf("%s: got version %d and operator %q, want 1 and some", c.what, s.GetMajorApiVersion(), s.GetOperator())
			}
			if i > 0 && !s.GetValidFor().GetStart().AsTime().Before(c.got[i-1].GetValidFor().GetStart().AsTime()) {
				t.Errorf("%s: service %d does not start before the one preferred to it; clients break the tie either way", c.what, i)
			}
		}
		if !slices.Equal(urls, c.want) {
			t.Errorf("%s: got %q, want %q", c.what, urls, c.want)
		}
	}
	if got := config.GetTsaConfig().GetSelector(); got != trustrootv1.ServiceSelector_ANY {
		t.Errorf("TSA selector: got %v, want ANY", got)
	}
}

// An open interval begins when the whole chain was valid. A service begins with
// the oldest certificate, even if nothing signs before tomorrow: a client behind
// the start of the only CA would find none to ask.
func TestOpenStartsFollowTheCertificates(t *testing.T) {
	old, recent, newest := day(time.January), day(time.February), day(time.March)
	for what, c := range map[string]struct{ issuing, root, whole time.Time }{
		"root older":    {recent, old, recent},
		"issuing older": {old, recent, recent},
	} {
		in := minimal(t)
		in.Chains = []trust.Chain{{Certificates: newChain(t, c.issuing, c.root, x509.ExtKeyUsageCodeSigning)}}
		_, root := trustedRoot(t, in)
		wantSpan(t, what+", chain", root.GetCertificateAuthorities()[0].GetValidFor(), c.whole, time.Time{})
		later := trust.Chain{Certificates: newChain(t, newest, newest, x509.ExtKeyUsageCodeSigning)}
		in.Chains = append([]trust.Chain{later}, in.Chains...)
		for i := range in.Chains {
			in.Chains[i].Start = day(time.June)
		}
		_, config := signingConfig(t, in)
		wantSpan(t, what+", service", config.GetCaUrls()[0].GetValidFor(), old, time.Time{})
	}
}

// npm's client takes the mere presence of a selector for a demand to use one.
func TestSelectorsAreThereOnlyWithServices(t *testing.T) {
	for what, c := range map[string]struct {
		in   trust.Input
		want []string
	}{
		"full":    {full(t), []string{"caUrls", "mediaType", "oidcUrls", "tsaConfig", "tsaUrls"}},
		"minimal": {minimal(t), []string{"caUrls", "mediaType"}},
	} {
		text, _ := signingConfig(t, c.in)
		wantMembers(t, what+" signing configuration", text, c.want)
	}
	text, _ := trustedRoot(t, minimal(t))
	wantMembers(t, "minimal trusted root", text, []string{"certificateAuthorities", "mediaType"})
	text, _ = trustedRoot(t, full(t))
	// The operator came with version 0.2; older clients refuse what they do not know.
	if bytes.Contains(text, []byte("operator")) || bytes.Contains(text, []byte("checkpointKeyId")) {
		t.Errorf("trusted root of version 0.1 has members of version 0.2:\n%s", text)
	}
}

func wantMembers(t *testing.T, what string, text []byte, want []string) {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	var got []string
	for name := range members {
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got members %q, want %q", what, got, want)
	}
}

func TestOperatorIsTheHostUnlessNamed(t *testing.T) {
	_, config := signingConfig(t, minimal(t))
	if got := config.GetCaUrls()[0].GetOperator(); got != "127.0.0.1" {
		t.Errorf("operator: got %q, want the host of the public URL", got)
	}
}

func TestInputThatClientsCannotUseIsRefused(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	g1, g2, tsa := certificates(t, "chain-g1.pem"), certificates(t, "chain-g2.pem"), certificates(t, "tsa.pem")
	forged := *g1[0] // its own bytes, but issued by the wrong key
	forged.Signature = slices.Clone(forged.Signature)
	forged.Signature[len(forged.Signature)-1] ^= 1
	for what, c := range map[string]struct {
		change func(*trust.Input)
		want   string
	}{
		"no public URL":          {func(in *trust.Input) { in.PublicURL = "" }, "public URL"},
		"relative public URL":    {func(in *trust.Input) { in.PublicURL = "/ca" }, "public URL"},
		"host only":              {func(in *trust.Input) { in.PublicURL = "ca.corp.example" }, "public URL"},
		"other scheme":           {func(in *trust.Input) { in.PublicURL = "ldap://ca.corp.example" }, "public URL"},
		"query in public URL":    {func(in *trust.Input) { in.PublicURL = "https://ca.corp.example/?a=b" }, "public URL"},
		"empty query":            {func(in *trust.Input) { in.PublicURL = "https://ca.corp.example/?" }, "public URL"},
		"fragment in public URL": {func(in *trust.Input) { in.PublicURL = "https://ca.corp.example/#" }, "public URL"},
		"password in public URL": {func(in *trust.Input) { in.PublicURL = "https://u:secret@ca.corp.example" }, "public URL"},
		"operator with scheme":   {func(in *trust.Input) { in.Operator = "https://corp.example" }, "operator"},
		"no chains":              {func(in *trust.Input) { in.Chains = nil }, "no chain"},
		"empty chain":            {func(in *trust.Input) { in.Chains[1].Certificates = nil }, "chain 1: no certificate"},
		"nil in chain":           {func(in *trust.Input) { in.Chains[0].Certificates = []*x509.Certificate{nil} }, "chain 0: no certificate"},
		"chain upside down":      {func(in *trust.Input) { in.Chains[0].Certificates = []*x509.Certificate{g2[1], g2[0]} }, "chain 0: certificate 0 was issued by"},
		"chain without root":     {func(in *trust.Input) { in.Chains[0].Certificates = g2[:1] }, "not a self-signed root"},
		"chain twice over":       {func(in *trust.Input) { in.Chains[0].Certificates = slices.Concat(g1, g2) }, "chain 0: certificate 1 was issued by"},
		"wrong signature":        {func(in *trust.Input) { in.Chains[0].Certificates = []*x509.Certificate{&forged, g1[1]} }, "is not signed by the next"},
		"leaf as chain":          {func(in *trust.Input) { in.Chains[0].Certificates = tsa }, "is not a CA"},
		"chain ends first":       {func(in *trust.Input) { in.Chains[0].End = in.Chains[0].Start }, "chain 0: ends"},
		"chain ends before open start": {func(in *trust.Input) {
			in.Chains[1].End = in.Chains[1].Certificates[0].NotBefore.Add(-time.Hour)
		}, "chain 1: ends"},
		"P-384 log key":     {func(in *trust.Input) { in.Logs[0].PublicKeyDER = newKeyDER(t, p384.Public()) }, "log 0: public key is not ECDSA P-256"},
		"RSA log key":       {func(in *trust.Input) { in.Logs[0].PublicKeyDER = newKeyDER(t, rsaKey.Public()) }, "log 0: public key is not ECDSA P-256"},
		"Ed25519 log key":   {func(in *trust.Input) { in.Logs[0].PublicKeyDER = newKeyDER(t, edKey) }, "log 0: public key is not ECDSA P-256"},
		"no log key":        {func(in *trust.Input) { in.Logs[0].PublicKeyDER = nil }, "log 0: public key"},
		"log key with tail": {func(in *trust.Input) { in.Logs[0].PublicKeyDER = append(logKey(t), 0) }, "log 0: public key"},
		"no log URL":        {func(in *trust.Input) { in.Logs[0].URL = "" }, "log 0: URL"},
		"log ends first":    {func(in *trust.Input) { in.Logs[0].End = day(time.January) }, "log 0: ends"},
		"log twice":         {func(in *trust.Input) { in.Logs = append(in.Logs, in.Logs[0]) }, "log 1 has the key of log 0"},
		"no TSA URL":        {func(in *trust.Input) { in.TSAs[0].URL = "" }, "timestamp authority 0: URL"},
		"no TSA chain":      {func(in *trust.Input) { in.TSAs[0].Certificates = nil }, "timestamp authority 0: no certificate"},
		"TSA leaf alone":    {func(in *trust.Input) { in.TSAs[0].Certificates = tsa[:1] }, "stands alone"},
		"TSA without leaf":  {func(in *trust.Input) { in.TSAs[0].Certificates = tsa[1:] }, "does not sign timestamps"},
		"CA as TSA":         {func(in *trust.Input) { in.TSAs[0].Certificates = g1 }, "does not sign timestamps"},
		"CA that signs timestamps": {func(in *trust.Input) {
			in.TSAs[0].Certificates = newChain(t, day(time.January), day(time.January), x509.ExtKeyUsageTimeStamping)
		}, "does not sign timestamps"},
		"TSA ends first":  {func(in *trust.Input) { in.TSAs[0].End = tsa[0].NotBefore.Add(-time.Hour) }, "timestamp authority 0: ends"},
		"relative issuer": {func(in *trust.Input) { in.Issuers[1].URL = "gitlab" }, "issuer 1: URL"},
	} {
		in := full(t)
		c.change(&in)
		for file, make := range map[string]func(trust.Input) ([]byte, error){"trusted root": trust.TrustedRoot, "signing config": trust.SigningConfig} {
			out, err := make(in)
			if err == nil || !strings.Contains(err.Error(), c.want) || out != nil {
				t.Errorf("%s, %s: got error %v, want one with %q and no file", file, what, err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%s, %s: error tells the password: %v", file, what, err)
			}
		}
	}
}

func TestEveryProblemIsNamed(t *testing.T) {
	in := full(t)
	in.PublicURL, in.Chains, in.Logs[0].URL = "", nil, ""
	_, err := trust.TrustedRoot(in)
	for _, want := range []string{"public URL", "no chain", "log 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want it to name %q too", err, want)
		}
	}
}
