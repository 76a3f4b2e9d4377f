package rfc6962

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"slices"
	"testing"
	"time"
)

// What is taken must be what encoding/json understands by it, and a chain that
// says the same is taken again.
func FuzzAddChainBody(f *testing.F) {
	raw, err := os.ReadFile("testdata/chain.pem")
	if err != nil {
		f.Fatal(err)
	}
	var chain []*x509.Certificate
	var der [][]byte
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			f.Fatal(err)
		}
		chain, der = append(chain, c), append(der, block.Bytes)
	}
	is, err := NewIssuers([][]*x509.Certificate{chain[1:]})
	if err != nil {
		f.Fatal(err)
	}
	now := chain[0].NotBefore.Add(time.Minute)
	if _, err := is.check(der, true, now); err != nil {
		f.Fatalf("the chain in testdata is refused: %v", err)
	}
	f.Add(must(f, der))
	f.Add(must(f, der[:1]))
	f.Add([]byte(`{"chain":["AAAA"],"chain":[]}`))
	f.Add([]byte(`{"chain":[],}`))
	f.Add([]byte(` { "cha\u0069n" : [ "AA==" , "" ] } `))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseChain(bytes.NewReader(body))
		if err != nil {
			return
		}
		var want struct {
			Chain [][]byte `json:"chain"`
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&want); err != nil || !slices.EqualFunc(got, want.Chain, bytes.Equal) {
			t.Fatalf("body %q\n got %x\nwant %x (%v)", body, got, want.Chain, err)
		}
		for _, precertificate := range []bool{true, false} {
			e, err := is.check(got, precertificate, now)
			if err == nil && (!precertificate || !bytes.Equal(got[0], der[0])) {
				t.Fatalf("entry %x taken, which the issuing key never signed", e.identity)
			}
		}
	})
}

func must(f *testing.F, chain [][]byte) []byte {
	f.Helper()
	body, err := json.Marshal(map[string]any{"chain": chain})
	if err != nil {
		f.Fatal(err)
	}
	return body
}
