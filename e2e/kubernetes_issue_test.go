//go:build full

package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// clusterAccount is the account that the guide signs with, in the namespaces that
// it names.
const clusterAccount = "tekton-bot"

// guideBlocks are the fenced blocks of docs/presets/kubernetes.md: what stands in
// them is what runs here.
func guideBlocks(t testing.TB, fence string) []string {
	t.Helper()
	var blocks []string
	for _, found := range regexp.MustCompile("(?ms)^```"+fence+"\n(.*?)^```$").FindAllStringSubmatch(
		string(readFile(t, "../docs/presets/kubernetes.md")), -1) {
		blocks = append(blocks, found[1])
	}
	return blocks
}

// adapt puts the places of this test into a block of the guide. Each of the
// places must be there.
func adapt(t testing.TB, block string, places ...string) string {
	t.Helper()
	for i := 0; i < len(places); i += 2 {
		if !strings.Contains(block, places[i]) {
			t.Fatalf("the guide does not say %q:\n%s", places[i], block)
		}
		block = strings.ReplaceAll(block, places[i], places[i+1])
	}
	return block
}

// newClusterWorld starts a Mayfly with an issuers section.
func newClusterWorld(t testing.TB, p pki, issuers string) *world {
	t.Helper()
	w := &world{pki: p, dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state")}
	w.http = w.client(t)
	port := freePort(t)
	w.url = fmt.Sprintf("https://127.0.0.1:%d", port)
	w.config = writeFile(t, filepath.Join(w.dir, "mayfly.yaml"), fmt.Sprintf(`listen:
  address: "127.0.0.1:%d"
  tls: {certificate: %s, key: %s}
public_url: %s
state: %s
shutdown: 5s
%schains:
  - name: corp-2026
    certificates: %s
    key: {file: %s, passphrase_file: %s}
logs:
  - {name: %s, embedded: {checkpoint_record: %s}}
`, port, p.file("tls.crt"), p.file("tls.key"), w.url, w.state, issuers,
		p.file(chainFile), p.file("corp.key"), p.file("passphrase"), logName, filepath.Join(w.dir, "checkpoint-record")))
	w.prepare(t, true)
	w.serve(t)
	return w
}

// TestKubernetes is one story with one cluster. Keys that are not known are asked
// for twice a minute at most, the start included: the new key comes first.
func TestKubernetes(t *testing.T) {
	p := newPKI(t)
	c := newCluster(t, p)
	for _, namespace := range []string{"build", "finance"} {
		c.account(t, namespace, clusterAccount)
	}
	c.account(t, "mayfly", "mayfly")
	w := newClusterWorld(t, p, adapt(t, guideBlocks(t, "yaml")[0],
		"/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", p.file(rootFile),
		"/var/run/secrets/kubernetes.io/serviceaccount/token", c.bearer(t),
		clusterIssuer+"/openid/v1/jwks", c.url+"/openid/v1/jwks\n    allow_loopback: [127.0.0.1]"))

	t.Run("keys are for accounts only", func(t *testing.T) { keysAreGuarded(t, c) })
	t.Run("a pod signs as its account", func(t *testing.T) { podSigns(t, c, w) })
	t.Run("tokens for others are refused", func(t *testing.T) { othersRefused(t, c, w) })
	t.Run("keys rotate", func(part *testing.T) { clusterKeysRotate(part, c, w, t) })
	t.Run("a second cluster has its own names", func(part *testing.T) { secondCluster(part, c, t) })
}

// keysAreGuarded shows that the bearer token is needed, and that an account needs
// no further binding: Kubernetes lets all of them read the keys.
func keysAreGuarded(t *testing.T, c *cluster) {
	for _, path := range []string{"/.well-known/openid-configuration", "/openid/v1/jwks"} {
		refuses(t, "an anonymous reader of "+path, []string{"answered 401", "answered 403"}, c.try(http.MethodGet, path, "", "", nil))
		if err := c.try(http.MethodGet, path, string(readFile(t, c.bearer(t))), "", nil); err != nil {
			t.Errorf("an account reads %s: %v", path, err)
		}
	}
}

// podSigns runs the guide's pod. Kubernetes mounts a token of its own into it,
// beside ours, and that one is good for a year.
func podSigns(t *testing.T, c *cluster, w *world) {
	tokens := c.mount(t, c.run(t, "build", clusterAccount, guideBlocks(t, "text")[0]))
	if len(tokens) != 2 || tokens["oidc-token"] == "" || tokens["token"] == "" {
		t.Fatalf("the pod has the tokens %v, want oidc-token and the automatic one", tokens)
	}
	named(t, w, tokens["oidc-token"], "https://kubernetes.io/namespaces/build/serviceaccounts/tekton-bot", clusterIssuer,
		"system:serviceaccount:build:tekton-bot")

	if life := lifetime(t, tokens["token"]); life < 300*24*time.Hour {
		t.Errorf("the automatic token lives %v; this test wants the year that Kubernetes gives", life)
	}
	refused(t, w, "the automatic token", tokens["token"], "aud")
}

// signs demands a certificate for the holder of a token.
func signs(t testing.TB, w *world, what, token string) *x509.Certificate {
	t.Helper()
	got, err := w.request(newApplicant(t, claimsOf(t, token).Sub), token)
	if err != nil || got.chain == nil {
		t.Fatalf("no certificate %s: %v, %v", what, got, err)
	}
	return got.chain[0]
}

// named demands a certificate, and what it says.
func named(t testing.TB, w *world, token, san, issuer, subject string) {
	t.Helper()
	leaf := signs(t, w, "for "+subject, token)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != san || len(leaf.EmailAddresses)+len(leaf.DNSNames)+len(leaf.IPAddresses) != 0 {
		t.Errorf("the certificate of %s names %v, %v, want %s", subject, leaf.URIs, leaf.EmailAddresses, san)
	}
	want := map[string]string{"1.3.6.1.4.1.57264.1.8": issuer, "1.3.6.1.4.1.57264.1.24": subject}
	for _, e := range leaf.Extensions {
		oid := e.Id.String()
		// A UTF8String of less than 128 bytes: tag, length, text.
		if text, ok := want[oid]; ok && string(e.Value) == fmt.Sprintf("\x0c%c%s", len(text), text) {
			delete(want, oid)
		}
	}
	if len(want) != 0 {
		t.Errorf("the certificate of %s lacks %v", subject, want)
	}
}

// refused demands a refusal with a reason.
func refused(t testing.TB, w *world, what, token, reason string) {
	t.Helper()
	got, err := w.request(newApplicant(t, claimsOf(t, token).Sub), token)
	ok := got.status/100 == 4 && got.reason() == reason || reason == "key_unknown" && keyUnknown(got)
	if err != nil || !ok {
		t.Errorf("%s: answer is %v, %v; want a refusal with reason %s", what, got, err, reason)
	}
}

// clusterClaims is what we read of a token.
type clusterClaims struct {
	Sub      string
	Iat, Exp int64
}

func claimsOf(t testing.TB, token string) clusterClaims {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims clusterClaims
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func lifetime(t testing.TB, token string) time.Duration {
	t.Helper()
	claims := claimsOf(t, token)
	return time.Duration(claims.Exp-claims.Iat) * time.Second
}

// othersRefused has the cluster make true tokens that are not for us.
func othersRefused(t *testing.T, c *cluster, w *world) {
	for _, bad := range []struct {
		what, namespace string
		audiences       []string
		life            time.Duration
		reason          string
	}{
		{"another service's token", "build", []string{"vault"}, 10 * time.Minute, "aud"},
		{"a token for the API server", "build", nil, 10 * time.Minute, "aud"},
		{"a token for the API server by name", "build", []string{clusterIssuer}, 10 * time.Minute, "aud"},
		{"a token that another service can use too", "build", []string{"sigstore", "vault"}, 10 * time.Minute, "aud_extra"},
		{"a token of two days", "build", []string{"sigstore"}, 48 * time.Hour, "token_lifetime"},
		{"a token of another namespace", "finance", []string{"sigstore"}, 10 * time.Minute, "san_not_allowed"},
	} {
		ask := tokenRequest{Audiences: bad.audiences, ExpirationSeconds: int64(bad.life / time.Second)}
		refused(t, w, bad.what, c.token(t, bad.namespace, clusterAccount, ask), bad.reason)
	}

	// No controller runs that would make the old kind, so the test does: the
	// claims of pkg/serviceaccount, LegacyClaims, under the cluster's own key.
	old := sign(t, c.key(t), map[string]any{"alg": "RS256", "kid": kid(t, c.ours(t, "build", clusterAccount))}, map[string]any{
		"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:build:" + clusterAccount,
		"kubernetes.io/serviceaccount/namespace":            "build",
		"kubernetes.io/serviceaccount/secret.name":          "tekton-bot-token",
		"kubernetes.io/serviceaccount/service-account.name": clusterAccount,
	})
	refused(t, w, "a token from a secret", old, "issuer_unknown")
}

// clusterKeysRotate gives the cluster a second key beside the first, and later a
// third instead of both. What is started anew belongs to owner.
func clusterKeysRotate(t *testing.T, c *cluster, w *world, owner testing.TB) {
	old, first := c.ours(t, "build", clusterAccount), c.signing
	c.signing, c.passive = c.newKey(owner, "second"), []string{first}
	c.restart(owner)

	// Mayfly's own account is made again, so that the keys can only be had with
	// the token that is in the file by now.
	c.must(t, http.MethodDelete, accounts("mayfly")+"/mayfly", "", nil)
	c.account(t, "mayfly", "mayfly")
	c.bearerEnds(t)
	next := c.ours(t, "build", clusterAccount)
	if kid(t, next) == kid(t, old) {
		t.Fatalf("the cluster still signs with key %s", kid(t, old))
	}
	signs(t, w, "with the new key", next)
	signs(t, w, "with the passive key", old)

	// The second key goes as well, and with it the bearer token. A restart has
	// Mayfly ask for the keys at once.
	c.signing, c.passive = c.newKey(owner, "third"), nil
	c.restart(owner)
	c.bearerEnds(t)
	w.restart(owner)
	signs(t, w, "with the third key", c.ours(t, "build", clusterAccount))
	refused(t, w, "a token under the first key", old, "key_unknown")
	refused(t, w, "a token under the second key", next, "key_unknown")
}

// bearerEnds demands that the API server no longer takes the bearer token, and
// puts a new one in its place.
func (c *cluster) bearerEnds(t testing.TB) {
	t.Helper()
	refuses(t, "the old bearer token", []string{"answered 401"},
		c.try(http.MethodGet, "/openid/v1/jwks", string(readFile(t, filepath.Join(c.dir, "token"))), "", nil))
	c.bearer(t)
}

// secondCluster makes of the same API server the guide's second cluster, which
// has an address for an issuer, and is found by discovery. A rule that pins an
// account's uid outlives no account.
func secondCluster(t *testing.T, c *cluster, owner testing.TB) {
	const names = "https://cluster-b.corp.example/namespaces/"
	c.issuer = c.url
	c.restart(owner)
	deployer := c.account(t, "deploy", "deployer")
	w := newClusterWorld(t, c.pki, adapt(t, guideBlocks(t, "yaml")[1],
		"https://oidc.cluster-b.corp.example\n", c.issuer+"\n    ca_file: "+c.pki.file(rootFile)+"\n    bearer_token_file: "+c.bearer(t)+"\n")+
		fmt.Sprintf(`      - name: deployer
        when: 'claims["kubernetes.io"].serviceaccount.uid == "%s"'
        san: 'uri("%s", "deploy", "serviceaccounts", "deployer")'
`, deployer.Metadata.UID, strings.TrimSuffix(names, "/")))

	named(t, w, c.ours(t, "build", clusterAccount), names+"build/serviceaccounts/tekton-bot", c.issuer, "system:serviceaccount:build:tekton-bot")
	named(t, w, c.ours(t, "deploy", "deployer"), names+"deploy/serviceaccounts/deployer", c.issuer, "system:serviceaccount:deploy:deployer")
	refused(t, w, "a namespace that no rule is for", c.ours(t, "finance", clusterAccount), "policy")

	c.must(t, http.MethodDelete, accounts("deploy")+"/deployer", "", nil)
	if again := c.account(t, "deploy", "deployer"); again.Metadata.UID == deployer.Metadata.UID {
		t.Fatalf("the account has its old uid %s again", again.Metadata.UID)
	}
	refused(t, w, "an account made again under the same name", c.ours(t, "deploy", "deployer"), "policy")
}
