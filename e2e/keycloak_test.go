package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keycloak is a real Keycloak on loopback behind TLS, with a database of its
// own that stays over restarts.
type keycloak struct {
	url    string
	home   string
	args   []string
	health string
	server *daemon
	http   *http.Client
	// session is the administrator's access token.
	session    string
	sessionEnd time.Time
}

const (
	adminName     = "admin"
	adminPassword = "the administrator's password"
	// keycloakStart bounds a start, first import of the realms included: fifteen
	// seconds on two idle cores.
	keycloakStart = 2 * time.Minute
	keycloakStop  = 30 * time.Second
)

// newKeycloak starts a Keycloak that has the realms in files of the name
// keycloak/*-realm.json. w.pki certifies it.
func newKeycloak(t testing.TB, p pki) *keycloak {
	t.Helper()
	port, management := freePort(t), freePort(t)
	k := &keycloak{
		url: fmt.Sprintf("https://127.0.0.1:%d", port), home: t.TempDir(),
		health: fmt.Sprintf("http://127.0.0.1:%d/health/ready", management),
	}
	k.http = (&world{pki: p}).client(t)
	dist := program(t, "E2E_KEYCLOAK")
	for _, part := range []string{"bin", "conf", "lib", "providers", "themes", "version.txt"} {
		if err := os.Symlink(filepath.Join(dist, part), filepath.Join(k.home, part)); err != nil {
			t.Fatal(err)
		}
	}
	imports := filepath.Join(k.home, "data", "import")
	if err := os.MkdirAll(imports, 0o700); err != nil {
		t.Fatal(err)
	}
	realms, err := filepath.Glob("keycloak/*-realm.json")
	if err != nil || len(realms) == 0 {
		t.Fatalf("no realms to import: %v", err)
	}
	for _, realm := range realms {
		writeFile(t, filepath.Join(imports, filepath.Base(realm)), string(readFile(t, realm)))
	}
	k.args = k.commandLine(p, port, management)
	k.start(t)
	return k
}

// commandLine is what bin/kc.sh would run, without the shell: so the process
// that is started, stopped and killed is the server itself. One compiler tier
// and the simplest collector start fastest.
func (k *keycloak) commandLine(p pki, port, management int) []string {
	return []string{
		"-Xms64m", "-Xmx512m", "-XX:MaxMetaspaceSize=256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError",
		"--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
		"--add-opens=java.base/java.security=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED",
		"-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
		"-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
		"-Dkc.home.dir=" + k.home, "-Djboss.server.config.dir=" + filepath.Join(k.home, "conf"), "-Djava.io.tmpdir=" + k.home,
		"-Dkc.config.built=true", "-cp", filepath.Join(k.home, "lib", "quarkus-run.jar"),
		"io.quarkus.bootstrap.runner.QuarkusEntryPoint", "start", "--optimized", "--import-realm", "--cache=local",
		"--hostname=" + k.url, "--http-host=127.0.0.1", "--http-enabled=false", fmt.Sprintf("--https-port=%d", port),
		"--https-certificate-file=" + p.file("tls.crt"), "--https-certificate-key-file=" + p.file("tls.key"),
		fmt.Sprintf("--http-management-port=%d", management), "--http-management-scheme=http",
		"--truststore-paths=" + p.file(rootFile), "--log-level=info,io.smallrye.health:error",
	}
}

// start starts Keycloak and waits until it answers.
func (k *keycloak) start(t testing.TB) {
	t.Helper()
	k.server = startDaemon(t, k.home, "env", append([]string{
		"KC_BOOTSTRAP_ADMIN_USERNAME=" + adminName, "KC_BOOTSTRAP_ADMIN_PASSWORD=" + adminPassword, "java",
	}, k.args...)...)
	begin := time.Now()
	k.server.await(t, "readiness", keycloakStart, func() error {
		_, err := fetch(k.http, k.health)
		return err
	})
	t.Logf("Keycloak is ready after %v", time.Since(begin).Round(time.Second))
}

// stop ends Keycloak as its administrator would.
func (k *keycloak) stop(t testing.TB) {
	t.Helper()
	if err := k.server.terminate(t, keycloakStop); err != nil {
		t.Logf("Keycloak ended with %v", err) // 143, as Java does on SIGTERM
	}
}

func (k *keycloak) realm(name string) string { return k.url + "/realms/" + name }

// maxTokens bounds an answer of the token endpoint.
const maxTokens = 1 << 20

// grant asks the token endpoint of a realm. An answer that is not a success is
// an error with Keycloak's words.
func (k *keycloak) grant(ctx context.Context, realm string, form url.Values) (tokens, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.realm(realm)+"/protocol/openid-connect/token", strings.NewReader(form.Encode()))
	if err != nil {
		return tokens{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var got tokens
	err = k.do(req, &got)
	return got, err
}

// tokens is what the token endpoint gives.
type tokens struct {
	Access  string `json:"access_token"`
	ID      string `json:"id_token"`
	Refresh string `json:"refresh_token"`
}

// do sends a request and reads the JSON of the answer, unless it is empty.
func (k *keycloak) do(req *http.Request, answer any) error {
	resp, err := k.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokens))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s answered %d: %s", req.Method, req.URL.Path, resp.StatusCode, body)
	}
	if len(body) == 0 || answer == nil {
		return nil
	}
	return json.Unmarshal(body, answer)
}

// admin calls the administration API; it must succeed.
func (k *keycloak) admin(t testing.TB, method, path string, body, answer any) {
	t.Helper()
	if err := k.tryAdmin(t, method, path, body, answer); err != nil {
		t.Fatal(err)
	}
}

func (k *keycloak) tryAdmin(t testing.TB, method, path string, body, answer any) error {
	t.Helper()
	if time.Now().After(k.sessionEnd) {
		session, err := k.grant(t.Context(), "master", url.Values{
			"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {adminName}, "password": {adminPassword},
		})
		if err != nil {
			return err
		}
		// Keycloak gives administrators a minute.
		k.session, k.sessionEnd = session.Access, time.Now().Add(40*time.Second)
	}
	content, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, k.url+"/admin/realms/"+path, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+k.session)
	return k.do(req, answer)
}
