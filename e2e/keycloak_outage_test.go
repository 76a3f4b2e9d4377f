package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"
)

// keysRotate rotates the realm's keys as its administrator would: a new key
// with a higher priority, later the old one disabled. A pipeline that signs all
// the while notices nothing; a token under the withdrawn key is refused. What
// is started anew belongs to owner, which outlives t.
func keysRotate(t *testing.T, k *keycloak, w *world, owner testing.TB) {
	old := k.pipelineToken(t)
	busy := keepIssuing(t, k, w)
	first := k.signingKey(t)
	k.addSigningKey(t, 200)
	busy.more(t, 5)
	next := k.pipelineToken(t)
	if kid(t, next) == kid(t, old) {
		t.Fatalf("Keycloak still signs with key %s", kid(t, old))
	}
	mustGet(t, w, "with the new key", next)
	mustGet(t, w, "with the passive key", old)
	busy.end(t)

	// Mayfly learns what was withdrawn when it next reads the keys, which a
	// restart does at once.
	first.Config["enabled"], first.Config["active"] = []string{"false"}, []string{"false"}
	k.admin(t, http.MethodPut, "eng/components/"+first.ID, first, nil)
	w.restart(owner)
	w.mayfly.await(t, "refusal of a token under a withdrawn key", startTime, func() error {
		got, err := w.request(newApplicant(t, builder), old)
		if err == nil && !keyUnknown(got) {
			err = fmt.Errorf("answer is %v", got)
		}
		return err
	})
	mustGet(t, w, "with the new key", next)
}

// restart ends Mayfly as its administrator would, and starts it again.
func (w *world) restart(t testing.TB) {
	t.Helper()
	if err := w.mayfly.terminate(t, startTime); err != nil {
		t.Errorf("Mayfly ended with %v", err)
	}
	w.serve(t)
}

// providerStops shows that an outage of the provider is not one of the CA:
// whoever has a token signs, also when the CA itself is started anew.
func providerStops(t *testing.T, k *keycloak, w *world, owner testing.TB) {
	token := k.pipelineToken(t)
	k.stop(t)
	for i := range 5 {
		mustGet(t, w, fmt.Sprintf("%d while the provider is down", i), token)
	}
	if _, err := w.get("/readyz"); err != nil {
		t.Errorf("not ready while the provider is down: %v", err)
	}
	w.restart(owner)
	mustGet(t, w, "after a restart while the provider is down", token)
	k.start(owner)
	next := k.pipelineToken(t)
	if next == token {
		t.Fatal("Keycloak gave the same token twice")
	}
	mustGet(t, w, "after the provider is back", next)
}

// mustGet gets a certificate for the pipeline.
func mustGet(t testing.TB, w *world, what, token string) {
	t.Helper()
	got, err := w.request(newApplicant(t, builder), token)
	if err != nil || got.chain == nil {
		t.Errorf("no certificate %s: %v, %v", what, got, err)
	}
}

// kid is the key that a token names.
func kid(t testing.TB, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var header struct{ Kid string }
	if err := json.Unmarshal(text, &header); err != nil {
		t.Fatal(err)
	}
	return header.Kid
}

// component is a part of a realm, such as a key provider or a directory.
type component struct {
	ID           string              `json:"id,omitempty"`
	Name         string              `json:"name"`
	ProviderID   string              `json:"providerId"`
	ProviderType string              `json:"providerType"`
	ParentID     string              `json:"parentId"`
	Config       map[string][]string `json:"config"`
}

const keyProvider = "org.keycloak.keys.KeyProvider"

func (k *keycloak) realmID(t testing.TB, realm string) string {
	t.Helper()
	var answer struct{ ID string }
	k.admin(t, http.MethodGet, realm, nil, &answer)
	return answer.ID
}

// signingKey is the provider of the realm's first RSA signing key.
func (k *keycloak) signingKey(t testing.TB) component {
	t.Helper()
	var all []component
	k.admin(t, http.MethodGet, "eng/components?type="+keyProvider, nil, &all)
	for _, c := range all {
		if c.ProviderID == "rsa-generated" {
			c.Config = maps.Clone(c.Config)
			return c
		}
	}
	t.Fatalf("no RSA key among %v", all)
	return component{}
}

// addSigningKey makes a key that is used instead of those of lower priority.
func (k *keycloak) addSigningKey(t testing.TB, priority int) {
	t.Helper()
	k.admin(t, http.MethodPost, "eng/components", component{
		Name: fmt.Sprintf("rsa-%d", priority), ProviderID: "rsa-generated", ProviderType: keyProvider, ParentID: k.realmID(t, "eng"),
		Config: map[string][]string{"priority": {fmt.Sprint(priority)}, "algorithm": {"RS256"}, "keySize": {"2048"}, "enabled": {"true"}, "active": {"true"}},
	}, nil)
}

// issuing is a pipeline that signs without a pause.
type issuing struct {
	issued chan struct{}
	failed chan error // closed when the pipeline has ended
	cancel context.CancelFunc
}

func keepIssuing(t *testing.T, k *keycloak, w *world) *issuing {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &issuing{make(chan struct{}), make(chan error, 1), cancel}
	applicant := newApplicant(t, builder)
	go func() {
		defer close(s.failed)
		for ctx.Err() == nil {
			token, err := k.tokenOfPipeline(context.WithoutCancel(ctx))
			if err == nil {
				var got answer
				if got, err = w.request(applicant, token); err == nil && got.chain == nil {
					err = fmt.Errorf("no certificate: %v", got)
				}
			}
			if err != nil {
				s.failed <- err
				return
			}
			select {
			case s.issued <- struct{}{}:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-s.failed })
	s.more(t, 5)
	return s
}

// more waits for so many further certificates.
func (s *issuing) more(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		select {
		case <-s.issued:
		case err := <-s.failed:
			t.Fatalf("the pipeline failed: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d certificates in 20 seconds", i, n)
		}
	}
}

func (s *issuing) end(t testing.TB) {
	t.Helper()
	s.more(t, 5)
	s.cancel()
	if err := <-s.failed; err != nil {
		t.Errorf("the pipeline failed: %v", err)
	}
}
