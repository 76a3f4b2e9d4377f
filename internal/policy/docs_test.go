package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// documented is as much of an issuer in the manual as policy is about.
type documented struct {
	Name          string
	Preset        string
	URL           string
	Allow         string
	TrustedClaims []string        `yaml:"trusted_claims"`
	MayIssue      config.MayIssue `yaml:"may_issue"`
	Rules         []struct {
		Name, When, SAN string
		Extensions      []struct{ Name, Value string }
	}
}

// blocks returns the YAML of a page.
func blocks(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, part := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		all = append(all, block)
	}
	return all
}

// Every rule in the manual compiles, and there is a page for each preset.
func TestManual(t *testing.T) {
	pages := []string{"../../docs/policy.md"}
	for _, name := range policy.PresetNames() {
		pages = append(pages, filepath.Join("../../docs/presets", name+".md"))
	}
	for _, page := range pages {
		all := blocks(t, page)
		if len(all) == 0 {
			t.Errorf("%s has no YAML", page)
		}
		for _, block := range all {
			var file struct {
				Issuers []documented
				Rules   []yaml.Node
			}
			if err := yaml.Unmarshal([]byte(block), &file); err != nil {
				t.Errorf("%s: %v in\n%s", page, err, block)
				continue
			}
			if len(file.Rules) > 0 { // a list of rules without its issuer
				one := documented{Name: "issuer", MayIssue: config.MayIssue{EmailDomains: []string{"corp.example"}}}
				if err := yaml.Unmarshal([]byte(block), &one); err != nil {
					t.Errorf("%s: %v", page, err)
				}
				file.Issuers = append(file.Issuers, one)
			}
			for _, d := range file.Issuers {
				if err := d.compile(); err != nil {
					t.Errorf("%s: %v in\n%s", page, err, block)
				}
			}
		}
	}
}

func (d documented) compile() error {
	row, _ := policy.Preset(d.Preset)
	if d.Preset != "" {
		if err := row.CheckIssuer(d.URL); err != nil {
			return err
		}
	}
	if d.Allow != "" {
		return nil
	}
	i := policy.Issuer{
		Name: d.Name, EmailDomains: d.MayIssue.EmailDomains, URIPrefixes: d.MayIssue.URIPrefixes,
		UsernameDomains: d.MayIssue.UsernameDomains, TrustedClaims: append(d.TrustedClaims, row.TrustedClaims...),
	}
	for _, r := range d.Rules {
		rule := policy.Rule{Name: r.Name, When: r.When, SAN: r.SAN}
		if rule.SAN == "" && len(row.Rules) > 0 {
			rule.When = "(" + row.Rules[0].When + ") && (" + rule.When + ")"
			rule.SAN, rule.Extensions = row.Rules[0].SAN, row.Rules[0].Extensions
		}
		for _, e := range r.Extensions {
			n, _ := config.ExtensionNumber(e.Name)
			rule.Extensions = append(rule.Extensions, policy.RuleExtension{Number: n, Value: e.Value})
		}
		i.Rules = append(i.Rules, rule)
	}
	if len(i.Rules) == 0 {
		i.Rules = row.Rules
	}
	_, err := policy.New([]policy.Issuer{i})
	return err
}
