package e2e

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rolesDecide has people sign by the roles that Keycloak gives them, in the realm
// and at the client, and by the ways in which it says that they have logged in.
func (w *world) rolesDecide(t *testing.T, k *keycloak) {
	session := filepath.Join(t.TempDir(), "carol.json")
	weak, _ := w.login(t, k, "carol", session)
	if got := loginOf(t, weak); !slices.Equal(got.AMR, []string{"pwd"}) {
		t.Errorf("amr after a password is %q, want pwd\n%s", got.AMR, payloadOf(t, weak))
	}
	w.refusedByPolicy(t, "roles, and a password alone", weak, "mfa_required")

	strong, pages := w.login(t, k, "carol", session, "--acr", "mfa")
	if strings.Contains(pages, "password") {
		t.Errorf("asked for the password again: %s", pages)
	}
	got := loginOf(t, strong)
	slices.Sort(got.AMR)
	if !slices.Equal(got.AMR, []string{"otp", "pwd"}) || !slices.Contains(got.Realm.Roles, "signer") ||
		!slices.Equal(got.Clients["sigstore"].Roles, []string{"releases"}) {
		t.Errorf("token says %+v, want both ways to log in and both roles\n%s", got, payloadOf(t, strong))
	}
	w.issuedTo(t, strong, "carol@release.example")

	// The role of the same name at another client is another role.
	other, _ := w.login(t, k, "dave", "", "--acr", "mfa")
	if got := loginOf(t, other); !slices.Contains(got.Realm.Roles, "signer") || len(got.Clients["sigstore"].Roles) != 0 {
		t.Errorf("token says %+v, want the realm's role and none at the client\n%s", got, payloadOf(t, other))
	}
	w.refusedByPolicy(t, "dave, who has the role at another client", other, "policy")
}

// loginClaims are the claims of Keycloak about a login and roles.
type loginClaims struct {
	AMR   []string `json:"amr"`
	Realm struct {
		Roles []string `json:"roles"`
	} `json:"realm_access"`
	Clients map[string]struct {
		Roles []string `json:"roles"`
	} `json:"resource_access"`
}

func loginOf(t testing.TB, token string) (claims loginClaims) {
	t.Helper()
	if err := json.Unmarshal([]byte(payloadOf(t, token)), &claims); err != nil {
		t.Fatalf("%v\n%s", err, token)
	}
	return claims
}
