package stack

import (
	"bytes"
	"context"
	"crypto"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
)

// reloading runs the service so that it reloads its file.
func (s *site) reloading(o Options) *running {
	s.t.Helper()
	ln := listen(s.t)
	f := s.configure(ln.Addr().String(), "")
	o.Listener = ln
	o.Load = func() (*config.File, error) { return config.Load(f.Path, nil) }
	return s.start(f, o)
}

// listen opens a port for a service, which closes it.
func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// start runs a service until the test ends, and waits until it has keys.
func (s *site) start(f *config.File, o Options) *running {
	s.t.Helper()
	stack, err := Open(s.t.Context(), f, o)
	s.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- stack.Run(ctx) }()
	r := &running{Stack: stack, url: "http://" + o.Listener.Addr().String()}
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	s.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			s.t.Errorf("stopping the service: %v", err)
		}
	})
	s.awaitKeys(stack)
	return r
}

// edit changes the configuration file: each old becomes new.
func (s *site) edit(oldnew ...string) {
	s.t.Helper()
	path := filepath.Join(s.dir, "mayfly.yaml")
	text, err := os.ReadFile(path)
	s.must(err)
	for i := 0; i < len(oldnew); i += 2 {
		if !bytes.Contains(text, []byte(oldnew[i])) {
			s.t.Fatalf("the configuration has no %q:\n%s", oldnew[i], text)
		}
		text = bytes.Replace(text, []byte(oldnew[i]), []byte(oldnew[i+1]), 1)
	}
	s.must(os.WriteFile(path, text, 0o600))
}

func TestReloadTakesTheFileIntoUse(t *testing.T) {
	s := newSite(t)
	s.initLog()
	var levels []string
	r := s.reloading(Options{Reloaded: func(f *config.File) { levels = append(levels, f.Logging.Level) }})
	token := s.token(nil)
	issue := func(want int) {
		t.Helper()
		if a := post(t, r.url+"/api/v2/signingCert", token, body(t, newKey(t), "alice@corp.example")); a.status != want {
			t.Errorf("got %d %s, want %d", a.status, a.body, want)
		}
	}
	issue(200)
	before := r.current.Load()
	s.edit("email_domains: [corp.example]", "email_domains: [other.example]", "state: state", "state: state\nlogging: {level: debug}")
	done, err := r.Reload(t.Context(), "test")
	s.must(err)
	if done.Previous == done.Digest || len(done.Digest) != 64 {
		t.Errorf("got digests %q and %q, want two", done.Previous, done.Digest)
	}
	issue(403) // by the new policy
	if len(levels) != 1 || levels[0] != "debug" {
		t.Errorf("told of levels %v, want debug once", levels)
	}
	after := r.current.Load()
	if before.verifier != after.verifier || before.log != after.log {
		t.Error("the token layer or the logs were made anew, although nothing about them has changed")
	}
	s.edit("audiences: [sigstore]", "audiences: [sigstore, ci]")
	_, err = r.Reload(t.Context(), "test")
	s.must(err)
	if r.current.Load().verifier == after.verifier {
		t.Error("the token layer stayed, although an audience was added")
	}
	issue(403) // and not 503: its keys are there
	if journal := s.journal(); strings.Count(journal, `"kind":"config.loaded"`) != 2 || !strings.Contains(journal, done.Digest) {
		t.Errorf("want two loaded configurations in the journal, with their digests:\n%s", journal)
	}
}

func TestReloadRefusesAndKeepsTheConfigurationBefore(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	path := filepath.Join(s.dir, "mayfly.yaml")
	good, err := os.ReadFile(path)
	s.must(err)
	other := newSite(t)
	for _, tc := range []struct {
		name   string
		change func()
		path   string
		want   string
	}{
		{"not YAML", func() { s.edit("chains:", "chains") }, "", "not valid YAML"},
		{"unknown key", func() { s.edit("state: state", "state: state\nmetrisc: x") }, "metrisc", "did you mean metrics?"},
		{"another address", func() { s.edit("listen: {address: \"", "listen: {address: \"localhost:1\", plaintext: true}\n#") }, "listen.address", "restart to change this"},
		{"another state", func() { s.edit("state: state", "state: elsewhere") }, "state", "restart to change this"},
		{"another socket", func() { s.edit("state: state", "state: state\nadmin: {socket: a.sock}") }, "admin.socket", "restart to change this"},
		{"metrics", func() { s.edit("state: state", "state: state\nmetrics: \"127.0.0.1:1\"") }, "metrics", "restart to change this"},
		{"another limit", func() { s.edit("per_identity: 100000/min", "per_identity: 1/min") }, "limits.per_identity", "restart to change this"},
		{"no embedded log", func() { s.edit("logs:\n  - {name: local, embedded: {}}", "logs: disabled") }, "logs", "restart to change this"},
		{"key of another chain", func() {
			data, err := os.ReadFile(filepath.Join(other.dir, "ca.key"))
			s.must(err)
			s.write("other.key", data)
			s.edit("ca.key", "other.key")
		}, "chains[0].certificates", "key"},
		{"chain that signs at once", func() { s.addChain(other, "next", "activate: "+stamp(time.Now().Add(-time.Minute))) }, "chains", "min_lead"},
		{"chain that signs tomorrow", func() { s.addChain(other, "next", "activate: "+stamp(time.Now().Add(23*time.Hour))) }, "chains", "min_lead"},
		{"chain that is published too late", func() {
			s.addChain(other, "next", "publish_from: "+stamp(time.Now().Add(24*time.Hour))+"\n    activate: "+stamp(time.Now().Add(47*time.Hour)))
		}, "chains", "min_lead"},
		{"rule that does not compile", func() { s.edit("allow: all\n    san: email", "rules: [{name: a, san: \"email(\"}]") }, "issuers[0].rules", ""},
	} {
		t.Run(strings.ReplaceAll(tc.name, " ", "_"), func(t *testing.T) {
			tc.change()
			before := r.current.Load()
			_, err := r.Reload(t.Context(), "test")
			if err == nil || !strings.Contains(err.Error(), tc.path+":") && tc.path != "" || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one at %s that says %q", err, tc.path, tc.want)
			}
			if r.current.Load() != before {
				t.Error("another configuration is in use")
			}
			a := get(t, r.url+"/readyz")
			if a.status != 200 || !strings.Contains(string(a.body), `"config":false`) {
				t.Errorf("readyz: got %d %s, want 200 and config false", a.status, a.body)
			}
			if a := post(t, r.url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice@corp.example")); a.status != 200 {
				t.Errorf("issuing: %d %s", a.status, a.body)
			}
			s.must(os.WriteFile(path, good, 0o600))
		})
	}
	if _, err := r.Reload(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	if a := get(t, r.url+"/readyz"); !strings.Contains(string(a.body), `"config":true`) {
		t.Errorf("readyz after the correction: %s", a.body)
	}
	if journal := s.journal(); !strings.Contains(journal, `"kind":"config.refused"`) || strings.Count(journal, `"kind":"config.loaded"`) != 1 {
		t.Errorf("want refusals and one loaded configuration in the journal:\n%s", journal)
	}
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// addChain adds the chain of another site to the configuration.
func (s *site) addChain(other *site, name, more string) {
	s.t.Helper()
	for _, file := range []string{"chain.pem", "ca.key"} {
		data, err := os.ReadFile(filepath.Join(other.dir, file))
		s.must(err)
		s.write(name+"/"+file, data)
	}
	s.edit("logs:\n", "  - name: "+name+"\n    certificates: "+name+"/chain.pem\n    key: {file: "+name+"/ca.key}\n    "+more+"\nlogs:\n")
}

func TestReloadWithoutAFileSaysSo(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	if _, err := r.Reload(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "start it again") {
		t.Errorf("got error %v, want one that says how", err)
	}
}

func TestAdministratorReloads(t *testing.T) {
	s := newSite(t)
	s.initLog()
	s.reloading(Options{})
	ask := func() (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://mayfly/v1/reload", nil)
		s.must(err)
		resp, err := AdminClient(s.socket()).Do(req)
		s.must(err)
		defer resp.Body.Close()
		var text bytes.Buffer
		_, err = text.ReadFrom(resp.Body)
		s.must(err)
		return resp.StatusCode, text.String()
	}
	if status, text := ask(); status != 200 || !strings.Contains(text, `"digest"`) {
		t.Errorf("got %d %s, want 200 and digests", status, text)
	}
	s.edit("state: state", "state: state\nmetrisc: x")
	if status, text := ask(); status != 409 || !strings.Contains(text, "did you mean metrics?") {
		t.Errorf("got %d %s, want 409 and what is wrong", status, text)
	}
}

// A request under way signs with the key of the configuration that it began with,
// and the key is forgotten when the last such request is over.
func TestKeysLastAsLongAsTheirRequests(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	before := r.current.Load()
	key := before.keyOf["corp"]
	signs := func() error {
		_, err := key.Sign(t.Context(), make([]byte, 32), crypto.SHA256)
		return err
	}
	for range 2 {
		if r.pin() != before.public {
			t.Fatal("a request gets another configuration than the one in force")
		}
	}
	_, err := r.Reload(t.Context(), "test")
	s.must(err)
	before.public.Release()
	if r.pin() == before.public {
		t.Error("a request that begins after the reload gets the configuration before")
	}
	r.current.Load().public.Release()
	// Another one takes long enough for a key to be closed that should not be.
	_, err = r.Reload(t.Context(), "test")
	s.must(err)
	if err := signs(); err != nil {
		t.Errorf("the key of a request under way: %v", err)
	}
	before.public.Release()
	eventually(t, "the key is closed", func() bool { return signs() != nil })
}
