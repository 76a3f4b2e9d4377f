//go:build full

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cluster is the part of a Kubernetes cluster that accounts are made of: a real
// kube-apiserver before a real etcd, on loopback. There is no controller and no
// node, so pods are only written down; the test does for them what the kubelet
// does for their tokens.
type cluster struct {
	url, dir string
	pki      pki
	etcd     string // its URL
	server   *daemon
	http     *http.Client
	session  string // the administrator's static token
	// issuer is what tokens say; signing is the key they are signed with, which
	// is published together with the passive ones.
	issuer  string
	signing string
	passive []string
}

// clusterIssuer is what kubeadm and k3s call a cluster. Nothing resolves it here.
const clusterIssuer = "https://kubernetes.default.svc.cluster.local"

// newCluster starts a cluster, which p certifies, with one key.
func newCluster(t testing.TB, p pki) *cluster {
	t.Helper()
	c := &cluster{
		url: fmt.Sprintf("https://127.0.0.1:%d", freePort(t)), dir: t.TempDir(), pki: p,
		etcd: fmt.Sprintf("http://127.0.0.1:%d", freePort(t)), session: rand.Text(), issuer: clusterIssuer,
	}
	c.http = (&world{pki: p}).client(t)
	peers := fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	// The test kills no etcd, so it need not wait for its disk.
	etcd := startDaemon(t, c.dir, program(t, "E2E_ETCD"), "--data-dir", filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", c.etcd, "--advertise-client-urls", c.etcd, "--listen-peer-urls", peers,
		"--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--log-level", "warn")
	etcd.await(t, "health", startTime, func() error {
		_, err := fetch(c.http, c.etcd+"/health")
		return err
	})
	writeFile(t, filepath.Join(c.dir, "tokens.csv"), c.session+`,admin,1,"system:masters"`+"\n")
	c.signing = c.newKey(t, "first")
	c.start(t)
	return c
}

// newKey makes a key for service accounts and returns its file.
func (c *cluster) newKey(t testing.TB, name string) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return writeFile(t, filepath.Join(c.dir, name+".pem"), string(pem.EncodeToMemory(block)))
}

// key is what the cluster signs with.
func (c *cluster) key(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode(readFile(t, c.signing))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// start starts the API server and waits until it is ready.
func (c *cluster) start(t testing.TB) {
	t.Helper()
	args := []string{
		"--etcd-servers=" + c.etcd, "--bind-address=127.0.0.1", "--secure-port=" + c.url[strings.LastIndex(c.url, ":")+1:],
		"--tls-cert-file=" + c.pki.file("tls.crt"), "--tls-private-key-file=" + c.pki.file("tls.key"),
		"--cert-dir=" + c.dir, "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
		"--authorization-mode=RBAC", "--token-auth-file=" + filepath.Join(c.dir, "tokens.csv"),
		"--service-account-issuer=" + c.issuer, "--service-account-jwks-uri=" + c.url + "/openid/v1/jwks",
		"--service-account-signing-key-file=" + c.signing, "--service-account-key-file=" + c.signing,
	}
	for _, file := range c.passive {
		args = append(args, "--service-account-key-file="+file)
	}
	c.server = startDaemon(t, c.dir, program(t, "E2E_KUBE_APISERVER"), args...)
	c.server.await(t, "readiness", startTime, func() error {
		return c.try(http.MethodGet, "/readyz", c.session, "", nil)
	})
}

// restart kills the API server, which has its state elsewhere, and starts it as
// c now says. The new process belongs to owner.
func (c *cluster) restart(owner testing.TB) {
	owner.Helper()
	c.server.kill()
	c.start(owner)
}

// try calls the API. The body is YAML, as people write it, and so also JSON. An
// answer that is not a success is an error with the server's words.
func (c *cluster) try(method, path, session, body string, answer any) error {
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/yaml")
	if session != "" {
		req.Header.Set("Authorization", "Bearer "+session)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer to %s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s answered %d: %s", method, path, resp.StatusCode, bytes.TrimSpace(text))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// must calls the API as the administrator.
func (c *cluster) must(t testing.TB, method, path, body string, answer any) {
	t.Helper()
	if err := c.try(method, path, c.session, body, answer); err != nil {
		t.Fatal(err)
	}
}

// apiObject is what we read of any object.
type apiObject struct {
	Metadata struct{ Name, Namespace, UID string } `json:"metadata"`
}

func accounts(namespace string) string { return "/api/v1/namespaces/" + namespace + "/serviceaccounts" }

// account makes a service account, and its namespace when that is new.
func (c *cluster) account(t testing.TB, namespace, name string) apiObject {
	t.Helper()
	if err := c.try(http.MethodGet, "/api/v1/namespaces/"+namespace, c.session, "", nil); err != nil {
		c.must(t, http.MethodPost, "/api/v1/namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: "+namespace+"}}", nil)
	}
	var made apiObject
	c.must(t, http.MethodPost, accounts(namespace), "{apiVersion: v1, kind: ServiceAccount, metadata: {name: "+name+"}}", &made)
	return made
}

// tokenSource is a token that a pod wants to have mounted, as in its volumes.
type tokenSource struct {
	Audience          string `json:"audience"`
	ExpirationSeconds int64  `json:"expirationSeconds"`
	Path              string `json:"path"`
}

// pod is what we read of one.
type pod struct {
	apiObject
	Spec struct {
		ServiceAccountName string `json:"serviceAccountName"`
		Volumes            []struct {
			Projected struct {
				Sources []struct {
					ServiceAccountToken *tokenSource `json:"serviceAccountToken"`
				} `json:"sources"`
			} `json:"projected"`
		} `json:"volumes"`
	} `json:"spec"`
}

// run writes a pod down. spec is the inside of its spec.
func (c *cluster) run(t testing.TB, namespace, account, spec string) pod {
	t.Helper()
	var made pod
	c.must(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/pods",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: run-1}\nspec:\n  serviceAccountName: "+account+"\n"+indent(spec, "  "), &made)
	return made
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+by) + "\n"
}

// mount returns the tokens that the kubelet would give to a pod, by path.
func (c *cluster) mount(t testing.TB, p pod) map[string]string {
	t.Helper()
	tokens := map[string]string{}
	for _, v := range p.Spec.Volumes {
		for _, s := range v.Projected.Sources {
			if want := s.ServiceAccountToken; want != nil {
				ask := tokenRequest{ExpirationSeconds: want.ExpirationSeconds}
				if want.Audience != "" {
					ask.Audiences = []string{want.Audience}
				}
				ask.BoundObjectRef = &boundObject{"v1", "Pod", p.Metadata.Name, p.Metadata.UID}
				tokens[want.Path] = c.token(t, p.Metadata.Namespace, p.Spec.ServiceAccountName, ask)
			}
		}
	}
	return tokens
}

type boundObject struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

// tokenRequest is the spec of authentication.k8s.io/v1 TokenRequest. No
// audiences are that of the API server.
type tokenRequest struct {
	Audiences         []string     `json:"audiences"`
	ExpirationSeconds int64        `json:"expirationSeconds"`
	BoundObjectRef    *boundObject `json:"boundObjectRef,omitempty"`
}

// token has a token made, as kubectl create token does.
func (c *cluster) token(t testing.TB, namespace, account string, ask tokenRequest) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": ask})
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	c.must(t, http.MethodPost, accounts(namespace)+"/"+account+"/token", string(body), &answer)
	return answer.Status.Token
}

// ours is a ten-minute token for Mayfly.
func (c *cluster) ours(t testing.TB, namespace, account string) string {
	t.Helper()
	return c.token(t, namespace, account, tokenRequest{Audiences: []string{"sigstore"}, ExpirationSeconds: 600})
}

// bearer puts a token of Mayfly's own account where Mayfly looks for it, as the
// kubelet does: renamed into place.
func (c *cluster) bearer(t testing.TB) string {
	t.Helper()
	file := filepath.Join(c.dir, "token")
	next := writeFile(t, file+".next", c.token(t, "mayfly", "mayfly", tokenRequest{ExpirationSeconds: 3600}))
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
	return file
}
