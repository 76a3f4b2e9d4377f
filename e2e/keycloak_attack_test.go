package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const (
	contractor = "mallory@contractors.example"
	// issued is the outcome of an attack that changes nothing: a certificate for
	// the contractor, as without the attack.
	issued = "a certificate for " + contractor
)

// attack is what the administrator of a realm does to its client and its user.
type attack struct {
	name    string
	mappers []mapper
	user    map[string]any
	client  map[string]string // attributes
	// shows is in the token when Keycloak went along. Without it the attack would
	// prove nothing.
	shows string
	// want is the reason code of the refusal, or issued.
	want string
	// token picks another token than the ID token.
	token func(t testing.TB, k *keycloak, got tokens) string
}

// mapper is a protocol mapper: what puts a claim into tokens.
type mapper struct {
	kind   string
	config map[string]string
}

// claim is a mapper with a value that the administrator types in. Keycloak
// takes a dot in a name as the way into an object, unless it is escaped.
func claim(name, jsonType, value string) mapper {
	return mapper{"oidc-hardcoded-claim-mapper", map[string]string{
		"claim.name": name, "claim.value": value, "jsonType.label": jsonType,
	}}
}

// text is a claim that is a string.
func text(name, value string) mapper { return claim(name, "String", value) }

// object is a claim of any JSON.
func object(name, value string) mapper { return claim(name, "JSON", value) }

// property is a claim that Keycloak takes from the user's record.
func property(claim, attribute, jsonType string) mapper {
	return mapper{"oidc-usermodel-property-mapper", map[string]string{
		"claim.name": claim, "user.attribute": attribute, "jsonType.label": jsonType,
	}}
}

// realmAttacks has the administrator of one realm try to speak for the people of
// another. Only names of the realm's own may come out, whatever its tokens say.
func realmAttacks(t *testing.T, k *keycloak, w *world) {
	r := newHostileRealm(t, k)
	if got := r.try(t, w, attack{}); got != issued {
		t.Fatalf("the realm's honest token gives %s, want %s", got, issued)
	}
	attacks := realmAttackTable()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			if got := r.try(t, w, a); got != a.want {
				t.Errorf("outcome is %s, want %s", got, a.want)
			}
		})
	}
	t.Run("with its own key", func(t *testing.T) { mintedAttacks(t, r, w, kid(t, k.pipelineToken(t))) })
}

// hostileRealm is the realm of the contractors in the hands of its administrator.
type hostileRealm struct {
	k            *keycloak
	client, user map[string]any
}

func newHostileRealm(t testing.TB, k *keycloak) *hostileRealm {
	t.Helper()
	var clients, users []map[string]any
	k.admin(t, http.MethodGet, "contractors/clients?clientId=sigstore", nil, &clients)
	k.admin(t, http.MethodGet, "contractors/users?username=mallory", nil, &users)
	if len(clients) != 1 || len(users) != 1 {
		t.Fatalf("realm has clients %v and users %v; want one of each", clients, users)
	}
	return &hostileRealm{k, clients[0], users[0]}
}

// try makes the changes, logs the user in, asks for a certificate and takes the
// changes back. It returns the outcome, after it has seen to the one thing that
// counts: a certificate names the realm's own people and the realm.
func (r *hostileRealm) try(t testing.TB, w *world, a attack) string {
	t.Helper()
	r.change(t, a)
	defer r.restore(t, a)
	got, err := r.k.grant(t.Context(), "contractors", url.Values{
		"grant_type": {"password"}, "client_id": {"sigstore"}, "scope": {"openid"},
		"username": {"mallory"}, "password": {passwordOf("mallory")},
	})
	if err != nil {
		t.Fatalf("Keycloak refused the login: %v", err)
	}
	token := got.ID
	if a.token != nil {
		token = a.token(t, r.k, got)
	}
	if payload := payloadOf(t, token); !strings.Contains(payload, a.shows) {
		t.Fatalf("Keycloak did not go along: the token has no %s:\n%s", a.shows, payload)
	}
	return r.outcome(t, w, token)
}

func (r *hostileRealm) change(t testing.TB, a attack) {
	t.Helper()
	var models []map[string]any
	for i, m := range append(r.honest(a.mappers), a.mappers...) {
		config := map[string]string{"id.token.claim": "true", "access.token.claim": "true"}
		maps.Copy(config, m.config)
		models = append(models, map[string]any{
			"name": fmt.Sprintf("mapper %d", i), "protocol": "openid-connect", "protocolMapper": m.kind, "config": config,
		})
	}
	r.k.admin(t, http.MethodPost, r.clientPath()+"/protocol-mappers/add-models", models, nil)
	if a.user != nil {
		user := maps.Clone(r.user)
		maps.Copy(user, a.user)
		r.k.admin(t, http.MethodPut, r.userPath(), user, nil)
	}
	if a.client != nil {
		r.k.admin(t, http.MethodPut, r.clientPath(), map[string]any{"clientId": "sigstore", "attributes": a.client}, nil)
	}
}

// honest are the mappers of a realm that tells what it knows, without those that
// an attack replaces.
func (r *hostileRealm) honest(attack []mapper) []mapper {
	var all []mapper
	for _, m := range []mapper{
		property("email", "email", "String"), property("email_verified", "emailVerified", "boolean"),
	} {
		if !slices.ContainsFunc(attack, func(a mapper) bool { return a.config["claim.name"] == m.config["claim.name"] }) {
			all = append(all, m)
		}
	}
	return all
}

// restore makes the realm honest again.
func (r *hostileRealm) restore(t testing.TB, a attack) {
	t.Helper()
	var all []struct{ ID string }
	r.k.admin(t, http.MethodGet, r.mappers(), nil, &all)
	for _, m := range all {
		r.k.admin(t, http.MethodDelete, r.mappers()+"/"+m.ID, nil, nil)
	}
	if a.user != nil {
		r.k.admin(t, http.MethodPut, r.userPath(), r.user, nil)
	}
	if a.client == nil {
		return
	}
	attributes := map[string]string{}
	for name := range a.client {
		attributes[name] = ""
	}
	r.k.admin(t, http.MethodPut, r.clientPath(), map[string]any{"clientId": "sigstore", "attributes": attributes}, nil)
}

func (r *hostileRealm) clientPath() string {
	return fmt.Sprintf("contractors/clients/%v", r.client["id"])
}
func (r *hostileRealm) userPath() string { return fmt.Sprintf("contractors/users/%v", r.user["id"]) }
func (r *hostileRealm) mappers() string  { return r.clientPath() + "/protocol-mappers/models" }

// outcome asks for a certificate with a signing request, which needs no agreement
// on who is asking.
func (r *hostileRealm) outcome(t testing.TB, w *world, token string) string {
	t.Helper()
	got, err := w.requestAs(t, token)
	if err != nil {
		t.Fatal(err)
	}
	if keyUnknown(got) {
		return "key_unknown"
	}
	if got.chain == nil {
		if got.status/100 != 4 || got.reason() == "" {
			t.Errorf("refused with %v; want a status of 4xx and a reason", got)
		}
		return got.reason()
	}
	leaf := got.chain[0]
	names := len(leaf.EmailAddresses) + len(leaf.URIs) + len(leaf.DNSNames) + len(leaf.IPAddresses)
	if names != 1 || len(leaf.EmailAddresses) != 1 || !strings.HasSuffix(leaf.EmailAddresses[0], "@contractors.example") ||
		strings.Count(leaf.EmailAddresses[0], "@") != 1 {
		t.Errorf("CERTIFICATE FOR SOMEBODY ELSE: %v %v %v %v", leaf.EmailAddresses, leaf.URIs, leaf.DNSNames, leaf.IPAddresses)
	}
	if got := issuerOf(leaf); got != r.k.realm("contractors") {
		t.Errorf("certificate names the provider %q, want %q", got, r.k.realm("contractors"))
	}
	return "a certificate for " + strings.Join(leaf.EmailAddresses, ", ")
}

// issuerOf is the provider that a certificate names (1.3.6.1.4.1.57264.1.8).
func issuerOf(leaf *x509.Certificate) string {
	for _, e := range leaf.Extensions {
		if e.Id.String() == "1.3.6.1.4.1.57264.1.8" && len(e.Value) > 2 {
			return string(e.Value[2:])
		}
	}
	return ""
}

// requestAs asks for a certificate with a signing request that says nothing.
func (w *world) requestAs(t testing.TB, token string) (answer, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "nobody"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"credentials":               map[string]any{"oidcIdentityToken": token},
		"certificateSigningRequest": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
	})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/api/v2/signingCert", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	return w.send(req)
}

// payloadOf is the text of a token's payload.
func payloadOf(t testing.TB, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) < 2 {
		t.Fatalf("token has %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(payload)
}
