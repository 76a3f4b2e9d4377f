package ctlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
)

// FuzzParseAnswer holds that whatever a log answers is an SCT that can be encoded
// and read again, or is called invalid.
func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"sct_version":0,"id":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","timestamp":1790000000123,"extensions":"AAAFAAAAAAc=","signature":"BAMAAgEC"}`))
	f.Add([]byte(`{"sct_version":1}{}`))
	f.Add([]byte(`{"sct_version":0,"id":"AAAA","timestamp":18446744073709551615}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		sct, err := parseAnswer(body)
		if err != nil {
			if !errors.Is(err, ErrBadSCT) || reasonOf(err) == reasonOther {
				t.Fatalf("parseAnswer(%q): %v; want an ErrBadSCT with a reason", body, err)
			}
			return
		}
		raw, err := sct.MarshalTLS()
		if err != nil {
			return // its signature is looked at when it is verified
		}
		again, err := ParseSCT(raw)
		if err != nil || again.LogID != sct.LogID || !again.Timestamp.Equal(sct.Timestamp) || again.Index != sct.Index ||
			!bytes.Equal(again.Extensions, sct.Extensions) || !bytes.Equal(again.Signature, sct.Signature) {
			t.Fatalf("parseAnswer(%q) = %+v, read again: %+v, %v", body, sct, again, err)
		}
	})
}

// FuzzVerifyTreeHeads holds that nothing unsigned passes a probe.
func FuzzVerifyTreeHeads(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	k, err := ParseKey(spki)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("log.example\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— log.example AAAAAAAAAAAAAAAAAAAAAAAA\n"))
	f.Add([]byte(`{"tree_size":1,"timestamp":1,"sha256_root_hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","tree_head_signature":"BAMACDAGAgEBAgEB"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if k.verifyCheckpoint(body) == nil || k.verifySTH(body) == nil {
			t.Fatalf("%q passes as signed", body)
		}
	})
}
