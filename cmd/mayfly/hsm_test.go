package main

import (
	"slices"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
)

func TestHSMExampleIsAPairForOneKey(t *testing.T) {
	f, err := config.Load("../../deploy/examples/hsm/mayfly.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := f.Chains[0].Key.Tokens, []string{"hsm-a", "hsm-b"}; !slices.Equal(got, want) {
		t.Errorf("tokens %q, want %q", got, want)
	}
	if f.Tokens[0].Module == f.Tokens[1].Module {
		t.Errorf("both tokens are in %s, and share its fate", f.Tokens[0].Module)
	}
	for _, token := range f.Tokens {
		if err := keys.TokenConfig(token).CheckURI(); err != nil {
			t.Errorf("token %s: %v", token.Name, err)
		}
	}
	if _, err := keys.KeyConfig("corp-2026", f.Chains[0].Key, nil); err != nil {
		t.Error(err)
	}
}

// What list prints is pasted: names must be names, and whatever a token calls
// itself must not become lines of the configuration.
func TestListedNamesAreConfiguration(t *testing.T) {
	for label, want := range map[string]string{
		"mayfly": "mayfly", "Corp HSM 1": "corp-hsm-1", "-x-": "x", "ä": "token-3", "": "token-3", "a\nb": "a-b",
	} {
		if got := entryName(label, 3); got != want {
			t.Errorf("entry of the label %q: name %q, want %q", label, got, want)
		}
	}
	for text, want := range map[string]string{
		"SoftHSM v2": "SoftHSM v2", "evil\ntokens: []": `evil\ntokens: []`, `a "b"`: `a "b"`, "\x1b[2J": `\x1b[2J`,
	} {
		if got := clean(text); got != want {
			t.Errorf("clean(%q) = %q, want %q", text, got, want)
		}
	}
}
