package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"math/big"
	"testing"
	"testing/synctest"
	"time"
)

func TestECDSASignaturesAreExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		token := f.token(t, TokenConfig{})
		order := elliptic.P256().Params().N.Bytes()
		zero := make([]byte, 32)
		for name, bend := range map[string]func(raw []byte) []byte{
			"empty":              func([]byte) []byte { return nil },
			"odd":                func(raw []byte) []byte { return raw[:63] },
			"short":              func(raw []byte) []byte { return raw[:62] },
			"long":               func(raw []byte) []byte { return append(raw, 0, 0) },
			"of another curve":   func(raw []byte) []byte { return append(make([]byte, 32), raw...) },
			"r is 0":             func(raw []byte) []byte { return append(bytes.Clone(zero), raw[32:]...) },
			"s is 0":             func(raw []byte) []byte { return append(raw[:32:32], zero...) },
			"r is the order":     func(raw []byte) []byte { return append(bytes.Clone(order), raw[32:]...) },
			"s is the order":     func(raw []byte) []byte { return append(raw[:32:32], order...) },
			"s above the order":  func(raw []byte) []byte { return append(raw[:32:32], bytes.Repeat([]byte{255}, 32)...) },
			"DER":                func(raw []byte) []byte { return append([]byte{0x30, 62}, raw[:62]...) },
			"r and s changed":    func(raw []byte) []byte { return append(bytes.Clone(raw[32:]), raw[:32]...) },
			"one bit":            func(raw []byte) []byte { raw[40] ^= 8; return raw },
			"of another message": func([]byte) []byte { raw, _ := f.keys[0].sign(zero); return raw },
		} {
			k := f.key(t, token)
			logins := f.made("Login")
			f.set(func() { f.bend = bend })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if sig, err := k.Sign(ctx, message[:], crypto.SHA256); err == nil || sig != nil {
				t.Errorf("%s: Sign = %x, %v; want a refusal", name, sig, err)
			}
			cancel()
			f.set(func() { f.bend = nil })
			time.Sleep(5 * time.Second)
			if err := signWithin(k, time.Second); err != nil {
				t.Errorf("%s: when the token signs well again: %v", name, err)
			}
			if f.made("Login") == logins {
				t.Errorf("%s: a wrong signature did not end the connection", name)
			}
			_ = k.Close()
		}
	})
}

// The token must not see bytes that the caller goes on using.
func TestSignCopiesTheDigest(t *testing.T) {
	f := newFake(t, ecKey(t, elliptic.P256()))
	k := f.key(t, f.token(t, TokenConfig{}))
	digest := bytes.Clone(message[:])
	f.set(func() {
		f.before = func(call string) error {
			if call == "Sign" {
				clear(digest) // as a caller may who was turned away
			}
			return nil
		}
	})
	sig, err := k.Sign(t.Context(), digest, crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), message[:], sig) {
		t.Errorf("Sign = %x, %v; want a signature of what was given", sig, err)
	}
}

// FuzzEncodeECDSA: what is made of a raw signature has its r and s, in DER that
// the standard library reads, and nothing is made of anything else.
func FuzzEncodeECDSA(f *testing.F) {
	f.Add(bytes.Repeat([]byte{1}, 64), false)
	f.Add(bytes.Repeat([]byte{0x80}, 96), true)
	f.Add(make([]byte, 64), false)
	f.Add([]byte{1, 2, 3}, false)
	f.Fuzz(func(t *testing.T, raw []byte, large bool) {
		curve, size := elliptic.P256(), 32
		if large {
			curve, size = elliptic.P384(), 48
		}
		der, err := encodeECDSA(&ecdsa.PublicKey{Curve: curve}, raw)
		if err != nil {
			return
		}
		var got struct{ R, S *big.Int }
		rest, err := asn1.Unmarshal(der, &got)
		if err != nil || len(rest) != 0 || len(raw) != 2*size {
			t.Fatalf("encodeECDSA(%x) = %x: %v", raw, der, err)
		}
		again := append(got.R.FillBytes(make([]byte, size)), got.S.FillBytes(make([]byte, size))...)
		if !bytes.Equal(again, raw) || got.R.Sign() <= 0 || got.S.Sign() <= 0 {
			t.Fatalf("encodeECDSA(%x) = %x, which is %x", raw, der, again)
		}
	})
}

// FuzzParseEC: what a token says is its public key is a point of the curve that it
// named, or refused.
func FuzzParseEC(f *testing.F) {
	for _, bits := range []int{256, 384} {
		curve := map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384()}[bits]
		p := curve.Params()
		point := append([]byte{4}, append(p.Gx.FillBytes(make([]byte, bits/8)), p.Gy.FillBytes(make([]byte, bits/8))...)...)
		f.Add(curveOIDs[bits], point)
		f.Add(curveOIDs[bits], append([]byte{4, byte(len(point))}, point...))
		f.Add(curveOIDs[bits], append(append([]byte{4, byte(len(point))}, point...), 0))
	}
	f.Fuzz(func(t *testing.T, params, point []byte) {
		key, err := parseEC(params, point)
		if (key == nil) == (err == nil) {
			t.Fatalf("parseEC(%x, %x) = %v, %v", params, point, key, err)
		}
		if err != nil {
			return
		}
		raw, err := key.Bytes()
		if err != nil || !bytes.HasSuffix(point, raw) {
			t.Fatalf("parseEC(%x, %x) = %x, %v", params, point, raw, err)
		}
	})
}
