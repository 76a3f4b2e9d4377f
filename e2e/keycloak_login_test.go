package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// builder is the e-mail address that the realm gives to its pipeline, in a
// domain that nobody has a mailbox in.
const builder = "ci-builder@ci.corp.example"

// newKeycloakWorld starts Keycloak, and a Mayfly that knows its realms.
func newKeycloakWorld(t testing.TB) (*keycloak, *world) {
	t.Helper()
	w := &world{pki: newPKI(t), dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state")}
	w.http = w.client(t)
	k := newKeycloak(t, w.pki)
	w.startTSA(t)
	port := freePort(t)
	w.url = fmt.Sprintf("https://127.0.0.1:%d", port)
	w.config = writeFile(t, filepath.Join(w.dir, "mayfly.yaml"), fmt.Sprintf(`listen:
  address: "127.0.0.1:%d"
  tls: {certificate: %s, key: %s}
public_url: %s
state: %s
shutdown: 5s
limits: {%s}
issuers:
%schains:
  - name: corp-2026
    certificates: %s
    key: {file: %s, passphrase_file: %s}
logs:
  - {name: %s, embedded: {checkpoint_record: %s}}
timestamp_authorities:
  - {url: %s, certificates: %s}
`, port, w.pki.file("tls.crt"), w.pki.file("tls.key"), w.url, w.state, noLimits, keycloakIssuers(k, w.pki),
		w.pki.file(chainFile), w.pki.file("corp.key"), w.pki.file("passphrase"),
		logName, filepath.Join(w.dir, "checkpoint-record"), w.tsaURL, w.pki.file(tsaChainFile)))
	w.prepare(t, true)
	w.serve(t)
	return k, w
}

// keycloakIssuers is the issuers section: people and pipelines of one realm, and
// a realm that others administer.
func keycloakIssuers(k *keycloak, p pki) string {
	return fmt.Sprintf(`  - name: engineering
    url: %s
    audiences: [sigstore]
    extra_audiences: [ci-builder]
    authorized_parties: [sigstore, ci-builder]
    ca_file: %s
    allow: all
    san: email
    may_issue: {email_domains: [corp.example, ci.corp.example]}
  - name: contractors
    url: %s
    audiences: [sigstore]
    ca_file: %s
    allow: all
    san: email
    may_issue: {email_domains: [contractors.example]}
%s`, k.realm("eng"), p.file(rootFile), k.realm("contractors"), p.file(rootFile), releaseIssuer(k, p)+directoryIssuer(k, p))
}

// TestKeycloak is one story with one Keycloak, because a start costs a quarter
// of a minute. Its parts come in order: unknown keys are asked for twice a minute
// at most, so the rotation comes before the forgeries, and is followed by a
// restart.
func TestKeycloak(t *testing.T) {
	k, w := newKeycloakWorld(t)
	t.Run("a developer logs in with a browser", func(t *testing.T) { developerLogsIn(t, k, w) })
	t.Run("a developer logs in on another device", func(t *testing.T) { developerUsesDevice(t, k, w) })
	t.Run("a pipeline has its own identity", func(t *testing.T) { pipelineSigns(t, k, w) })
	t.Run("rules decide", func(t *testing.T) { rulesDecide(t, k, w) })
	t.Run("keys rotate", func(part *testing.T) { keysRotate(part, k, w, t) })
	t.Run("a hostile realm stays in its own names", func(t *testing.T) { realmAttacks(t, k, w) })
	t.Run("the provider stops", func(part *testing.T) { providerStops(part, k, w, t) })
}

// login is what a person does at the browser; see keycloak/browser.mjs.
type login struct {
	URL         string `json:"url"`
	User        string `json:"user"`
	Password    string `json:"password"`
	OTP         string `json:"otp,omitempty"`
	Cookies     string `json:"cookies,omitempty"` // file that keeps the session
	End         string `json:"end"`               // where the provider sends the browser at last
	Certificate string `json:"certificate"`
	Chromium    string `json:"chromium"`
}

// browse logs a person in at a real browser and returns the pages seen.
func browse(t testing.TB, p pki, l login) (string, error) {
	t.Helper()
	l.Certificate, l.Chromium = p.file("tls.crt"), program(t, "E2E_CHROMIUM")
	task, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "login.json"), string(task))
	return command{dir: dir}.run(t, "sh", "-c", `exec node "$0" < "$1"`, filepath.Join(program(t, "E2E_BROWSER"), "browser.mjs"), file)
}

func passwordOf(user string) string { return user + "'s password" }

// running is a command that runs beside the test.
type running struct {
	done chan struct{}
	out  string
	err  error
}

// background starts a client; result waits for it.
func background(t testing.TB, c command, name string, args ...string) *running {
	t.Helper()
	r := &running{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.out, r.err = c.run(t, name, args...)
	}()
	t.Cleanup(func() { <-r.done })
	return r
}

func (r *running) result() (string, error) {
	<-r.done
	return r.out, r.err
}

// awaitFile waits until the client has written a file, or has ended.
func (r *running) awaitFile(t testing.TB, path string, pattern *regexp.Regexp) string {
	t.Helper()
	tick, deadline := time.NewTicker(20*time.Millisecond), time.NewTimer(startTime)
	defer tick.Stop()
	defer deadline.Stop()
	for {
		content, _ := os.ReadFile(path)
		if found := pattern.FindString(string(content)); found != "" {
			return found
		}
		select {
		case <-tick.C:
		case <-r.done:
			t.Fatalf("the client ended before %s had %v: %v\n%s", path, pattern, r.err, r.out)
		case <-deadline.C:
			t.Fatalf("no %v in %s: %q", pattern, path, content)
		}
	}
}

// opener makes what clients start to open a browser, xdg-open, and returns its
// directory and the file that it writes the address to. It returns at once, as a
// desktop's does.
func opener(t testing.TB, dir string) (path, shown string) {
	t.Helper()
	path, shown = filepath.Join(dir, "bin"), filepath.Join(dir, "shown")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	script := writeFile(t, filepath.Join(path, "xdg-open"), "#!/bin/sh\nprintf '%s\\n' \"$1\" >'"+shown+"'\n")
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	return path, shown
}

// signWith has cosign sign as it is, with the flow given, while a person logs
// in with the URL that cosign shows.
func signWith(t *testing.T, w *world, provider, flow string, pattern *regexp.Regexp, person func(url string)) string {
	t.Helper()
	dir := t.TempDir()
	path, shown := opener(t, dir)
	blob, bundle := writeFile(t, filepath.Join(dir, "release.tar"), "what is released\n"), filepath.Join(dir, "bundle.json")
	c := command{dir: dir, env: append(w.offline(), "PATH="+path+":"+os.Getenv("PATH"))}
	// The shell keeps what cosign says where the test can read it meanwhile.
	client := background(t, c, "sh", "-c", `exec "$0" "$@" >`+filepath.Join(dir, "said")+` 2>&1`, program(t, "E2E_COSIGN3"), "sign-blob", "--yes",
		"--fulcio-auth-flow", flow, "--oidc-disable-ambient-providers",
		"--signing-config", w.signingConfigFor(t, provider, dir),
		"--trusted-root", w.save(t, "/trust/trusted_root.json", "trusted_root.json"),
		"--bundle", bundle, blob)
	source := shown
	if flow == "device" {
		source = filepath.Join(dir, "said")
	}
	person(client.awaitFile(t, source, pattern))
	if _, err := client.result(); err != nil {
		t.Fatalf("%v\n%s", err, readFile(t, filepath.Join(dir, "said")))
	}
	return bundle
}

// signingConfigFor is the service's signing configuration with one of its
// providers: cosign takes the first one.
func (w *world) signingConfigFor(t testing.TB, provider, dir string) string {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal(w.mustGet(t, "/trust/signing_config.json"), &config); err != nil {
		t.Fatal(err)
	}
	all, _ := config["oidcUrls"].([]any)
	for _, one := range all {
		if service, ok := one.(map[string]any); ok && service["url"] == provider {
			config["oidcUrls"] = []any{one}
		}
	}
	content, err := json.Marshal(config)
	if err != nil || !strings.Contains(string(content), provider) {
		t.Fatalf("signing configuration lacks %s: %s, %v", provider, content, err)
	}
	return writeFile(t, filepath.Join(dir, "signing_config.json"), string(content))
}

var addressLine = regexp.MustCompile(`https://\S+\n`)

// answerLogin logs a person with a second factor in, at the address that a
// client opened, and returns the pages seen. With a session, the person is still
// logged in.
func answerLogin(t testing.TB, w *world, address, user, session string) string {
	t.Helper()
	query, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		t.Fatal(err)
	}
	if got := query.Query().Get("code_challenge_method"); got != "S256" {
		t.Errorf("the client asks with code_challenge_method %q, want S256", got)
	}
	pages, err := browse(t, w.pki, login{
		URL: query.String(), User: user, Password: passwordOf(user), OTP: oneTimeCode(time.Now()),
		Cookies: session, End: query.Query().Get("redirect_uri"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// developerLogsIn is the day of a developer: stock cosign, the organization's
// login page, and a signature that others can verify by name.
func developerLogsIn(t *testing.T, k *keycloak, w *world) {
	bundle := signWith(t, w, k.realm("eng"), "normal", addressLine, func(address string) { answerLogin(t, w, address, "alice", "") })
	checkSigned(t, w, bundle, alice, k.realm("eng"))
}

func developerUsesDevice(t *testing.T, k *keycloak, w *world) {
	bundle := signWith(t, w, k.realm("eng"), "device", regexp.MustCompile(`https://\S+user_code=\S+`), func(address string) {
		pages, err := browse(t, w.pki, login{URL: address, User: "bob", Password: passwordOf("bob"), End: k.realm("eng") + "/device/status"})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(pages, "grant access") {
			t.Errorf("Keycloak did not ask whether the device may log in: %s", pages)
		}
	})
	checkSigned(t, w, bundle, "bob@corp.example", k.realm("eng"))
}

// checkSigned demands that a bundle verifies for the person at the provider.
func checkSigned(t *testing.T, w *world, bundle, email, provider string) {
	t.Helper()
	leaf := leafOf(t, bundle)
	w.checkLeaf(t, leaf)
	if len(leaf.EmailAddresses) != 1 || leaf.EmailAddresses[0] != email || len(leaf.URIs) != 0 {
		t.Errorf("certificate is for %v and %v, want %s alone", leaf.EmailAddresses, leaf.URIs, email)
	}
	blob := filepath.Join(filepath.Dir(bundle), "release.tar")
	if err := cosign3().verify(t, w, blob, bundle, email, provider); err != nil {
		t.Error(err)
	}
	refuses(t, "another identity", cosign3().wrongIdentity, cosign3().verify(t, w, blob, bundle, mallory, provider))
}

// pipelineToken is what a confidential client gets for its secret.
func (k *keycloak) pipelineToken(t testing.TB) string {
	t.Helper()
	token, err := k.tokenOfPipeline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (k *keycloak) tokenOfPipeline(ctx context.Context) (string, error) {
	got, err := k.grant(ctx, "eng", url.Values{
		"grant_type": {"client_credentials"}, "scope": {"openid"},
		"client_id": {"ci-builder"}, "client_secret": {"the builder's secret"},
	})
	return got.ID, err
}

func pipelineSigns(t *testing.T, k *keycloak, w *world) {
	got, err := w.request(newApplicant(t, builder), k.pipelineToken(t))
	if err != nil || got.chain == nil {
		t.Fatalf("no certificate for a pipeline: %v, %v", got, err)
	}
	w.checkLeaf(t, got.chain[0])
	if names := got.chain[0].EmailAddresses; len(names) != 1 || names[0] != builder {
		t.Errorf("certificate is for %v, want %s", names, builder)
	}
	// The client's own secret is what makes it a client.
	_, err = k.grant(t.Context(), "eng", url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"}, "client_id": {"ci-builder"}, "client_secret": {"a guess"}})
	refuses(t, "a guessed secret", []string{fmt.Sprint(http.StatusUnauthorized)}, err)
}

// oneTimeCode is what alice's phone shows (RFC 6238): the secret is in the realm.
func oneTimeCode(at time.Time) string {
	var counter [8]byte
	binary.BigEndian.PutUint64(counter[:], uint64(at.Unix()/30))
	mac := hmac.New(sha1.New, []byte("a secret of twenty b"))
	mac.Write(counter[:])
	sum := mac.Sum(nil)
	offset := sum[len(sum)-1] & 0xf
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[offset:])&0x7fffffff)%1_000_000)
}
