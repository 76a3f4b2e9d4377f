//go:build directory

package e2e

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const (
	directoryAddress  = "127.0.0.1:636"
	directoryPassword = "The directory's passw0rd"
	// directoryStart bounds the provisioning of a domain: ten seconds on two idle
	// cores.
	directoryStart = 2 * time.Minute
)

// TestActiveDirectory has people of a real Active Directory (Samba) log in at a
// Keycloak that is federated with it, as many organizations have it. It needs
// root and the ports of a directory, which is why it is not in the usual run.
func TestActiveDirectory(t *testing.T) {
	k, w := newKeycloakWorld(t)
	dc := newDirectory(t, w)
	k.federate(t, "directory")

	carol, err := k.directoryToken(t, "carol")
	if err != nil {
		t.Fatal(err)
	}
	w.issuedTo(t, carol.ID, "carol@ad.example")

	dave, err := k.directoryToken(t, "dave")
	if err != nil {
		t.Fatal(err)
	}
	w.refusedByPolicy(t, "dave, who is not in the group", dave.ID, "policy")

	carol, err = k.directoryToken(t, "carol")
	if err != nil {
		t.Fatal(err)
	}
	dc.disable(t, "carol")
	disabled := time.Now()
	_, err = k.directoryToken(t, "carol")
	refuses(t, "a login of a disabled user", []string{"invalid_grant"}, err)
	_, err = k.grant(t.Context(), "directory", url.Values{
		"grant_type": {"refresh_token"}, "client_id": {"sigstore"}, "refresh_token": {carol.Refresh}, "scope": {"openid"},
	})
	refuses(t, "the session of a disabled user", []string{"invalid_grant"}, err)

	// What is left is the last token, for the rest of its twenty seconds.
	select {
	case <-time.After(time.Until(disabled.Add(22 * time.Second))):
	case <-t.Context().Done():
	}
	got, err := w.requestAs(t, carol.ID)
	if err != nil || got.status/100 != 4 || got.reason() != "expired" {
		t.Errorf("answer to the last token of a disabled user is %v, %v; want it expired", got, err)
	}
}

// directory is a domain controller in a mount namespace of its own.
type directory struct{ server *daemon }

func newDirectory(t testing.TB, w *world) *directory {
	t.Helper()
	script, err := filepath.Abs("keycloak/samba.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := &directory{startDaemon(t, dir, "unshare", "--mount", "--uts", "sh", script, dir,
		w.pki.file("tls.crt"), w.pki.file("tls.key"), w.pki.file(rootFile), directoryPassword)}
	d.server.await(t, "directory over TLS", directoryStart, func() error {
		conn, err := tls.Dial("tcp", directoryAddress, &tls.Config{RootCAs: w.roots(t), MinVersion: tls.VersionTLS12})
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return d
}

// disable switches an account off, as its administrator would.
func (d *directory) disable(t testing.TB, user string) {
	t.Helper()
	command{dir: t.TempDir()}.must(t, "nsenter", "--target", fmt.Sprint(d.server.cmd.Process.Pid), "--mount",
		"samba-tool", "user", "disable", user)
}

// federate connects a realm with the directory over LDAPS, with its groups.
// Nothing is cached: with a cache, who was disabled keeps a session for as long.
func (k *keycloak) federate(t testing.TB, realm string) {
	t.Helper()
	const provider = "org.keycloak.storage.UserStorageProvider"
	k.admin(t, http.MethodPost, realm+"/components", component{
		Name: "corp", ProviderID: "ldap", ProviderType: provider, ParentID: k.realmID(t, realm),
		Config: map[string][]string{
			"enabled": {"true"}, "vendor": {"ad"}, "connectionUrl": {"ldaps://" + directoryAddress}, "useTruststoreSpi": {"always"},
			"bindDn": {"CN=Administrator,CN=Users,DC=ad,DC=example"}, "bindCredential": {directoryPassword}, "authType": {"simple"},
			"usersDn": {"CN=Users,DC=ad,DC=example"}, "searchScope": {"2"}, "usernameLDAPAttribute": {"sAMAccountName"},
			"rdnLDAPAttribute": {"cn"}, "uuidLDAPAttribute": {"objectGUID"}, "userObjectClasses": {"person, organizationalPerson, user"},
			"editMode": {"READ_ONLY"}, "importEnabled": {"true"}, "syncRegistrations": {"false"}, "trustEmail": {"true"},
			"pagination": {"true"}, "startTls": {"false"}, "allowKerberosAuthentication": {"false"}, "cachePolicy": {"NO_CACHE"},
			"priority": {"0"},
		},
	}, nil)
	var all []component
	k.admin(t, http.MethodGet, realm+"/components?type="+provider, nil, &all)
	at := slices.IndexFunc(all, func(c component) bool { return c.Name == "corp" })
	if at < 0 {
		t.Fatalf("no directory among %v", all)
	}
	k.admin(t, http.MethodPost, realm+"/components", component{
		Name: "groups", ProviderID: "group-ldap-mapper", ProviderType: "org.keycloak.storage.ldap.mappers.LDAPStorageMapper", ParentID: all[at].ID,
		Config: map[string][]string{
			"groups.dn": {"CN=Users,DC=ad,DC=example"}, "group.name.ldap.attribute": {"cn"}, "group.object.classes": {"group"},
			"membership.ldap.attribute": {"member"}, "membership.attribute.type": {"DN"}, "membership.user.ldap.attribute": {"sAMAccountName"},
			"memberof.ldap.attribute": {"memberOf"}, "mode": {"READ_ONLY"}, "groups.path": {"/"},
			"user.roles.retrieve.strategy": {"LOAD_GROUPS_BY_MEMBER_ATTRIBUTE"}, "preserve.group.inheritance": {"false"},
			"drop.non.existing.groups.during.sync": {"false"},
		},
	}, nil)
}

func (k *keycloak) directoryToken(t testing.TB, user string) (tokens, error) {
	t.Helper()
	return k.grant(t.Context(), "directory", url.Values{
		"grant_type": {"password"}, "client_id": {"sigstore"}, "scope": {"openid"}, "username": {user}, "password": {directoryPassword},
	})
}
