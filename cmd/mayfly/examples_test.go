package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// The tests in the example are what config check runs there, once its files of
// certificates and keys exist.
func TestKeycloakExamplePassesItsOwnTests(t *testing.T) {
	f, err := config.Load("../../deploy/examples/keycloak/mayfly.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	is := f.Issuers[0]
	p, err := policy.New([]policy.Issuer{rulesOf(is)})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range is.Rules {
		for _, c := range r.Tests {
			claims, err := os.ReadFile(c.Token)
			if err != nil {
				t.Fatal(err)
			}
			err = p.Test(context.Background(), policy.Case{Issuer: is.Name, URL: is.URL, Rule: r.Name, Claims: claims, At: c.At, Expect: c.Expect})
			if err != nil {
				t.Errorf("rule %s, %s: %v", r.Name, c.Token, err)
			}
		}
	}
}

// The schema and the table of presets name the same ones.
func TestConfigurationKnowsEveryPreset(t *testing.T) {
	for _, name := range policy.PresetNames() {
		row, _ := policy.Preset(name)
		issuer := fmt.Sprintf("issuers:\n  - name: a\n    preset: %s\n    url: %s\n    audiences: [sigstore]\n    may_issue: {email_domains: [corp.example]}\n", name, row.Example)
		if len(row.Rules) == 0 {
			issuer += "    allow: all\n    san: email\n"
		}
		if _, err := config.Parse("mayfly.yaml", []byte(aroundIssuers+issuer)); err != nil {
			t.Errorf("preset %s: %v", name, err)
		}
	}
	for _, name := range []string{
		config.PresetGeneric, config.PresetKeycloak, config.PresetADFS, config.PresetEntra, config.PresetGitLab,
		config.PresetGitHub, config.PresetJenkins, config.PresetKubernetes, config.PresetSPIFFE,
	} {
		if _, ok := policy.Preset(name); !ok {
			t.Errorf("preset %s: got no row in the table, want one", name)
		}
	}
}
