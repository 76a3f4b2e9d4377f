package main

import (
	"context"
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
