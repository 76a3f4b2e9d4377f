package oidc

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// joePayload is that of RFC 7515, Appendix A.1 to A.3.
const joePayload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"

// The signatures that the RFCs print.
func TestSignaturesOfTheRFCs(t *testing.T) {
	for _, tc := range []struct{ name, alg, jwk, token string }{
		{"RFC 7515, A.2", "RS256", `{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}`,
			"eyJhbGciOiJSUzI1NiJ9." + joePayload + ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"},
		{"RFC 7515, A.3", "ES256", `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`,
			"eyJhbGciOiJFUzI1NiJ9." + joePayload + ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"},
		{"RFC 8037, A.4", "EdDSA", `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
			"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"},
	} {
		k, _, err := parseKey([]byte(tc.jwk))
		if err != nil {
			t.Errorf("%s: key: %v", tc.name, err)
			continue
		}
		dot := strings.LastIndexByte(tc.token, '.')
		signed, sig := []byte(tc.token[:dot]), must(base64.RawURLEncoding.DecodeString(tc.token[dot+1:]))
		for alg := range algorithms {
			if got, want := k.verifies(alg, string(signed), sig), alg == tc.alg; got != want {
				t.Errorf("%s: verifies as %s: %v, want %v", tc.name, alg, got, want)
			}
		}
		if k.verifies(tc.alg, string(signed[:len(signed)-1]), sig) {
			t.Errorf("%s: verifies over less than was signed", tc.name)
		}
	}
}

// signingKeys has a key for each algorithm.
var signingKeys = sync.OnceValue(func() map[string]crypto.Signer {
	ec := func(c elliptic.Curve) crypto.Signer { return must(ecdsa.GenerateKey(c, rand.Reader)) }
	all := map[string]crypto.Signer{"ES256": p256Key(), "ES384": ec(elliptic.P384()), "ES512": ec(elliptic.P521()), "EdDSA": ed25519Key()}
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} {
		all[alg] = rsaKey1()
	}
	return all
})

// signFor signs by alg; salt is for the algorithms that have one.
func signFor(t testing.TB, alg string, input []byte, salt int) []byte {
	t.Helper()
	key, hash := signingKeys()[alg], algorithms[alg].hash
	digest := input
	if hash != 0 {
		h := hash.New()
		h.Write(input)
		digest = h.Sum(nil)
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if algorithms[alg].pss {
			return must(rsa.SignPSS(rand.Reader, k, hash, digest, &rsa.PSSOptions{SaltLength: salt}))
		}
		return must(rsa.SignPKCS1v15(nil, k, hash, digest))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		succeed(t, err)
		size := (k.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	}
	return ed25519.Sign(key.(ed25519.PrivateKey), input)
}

func keyFor(t testing.TB, alg string) *key {
	t.Helper()
	k, _, err := parseKey([]byte(text(publicJWK(signingKeys()[alg].Public()))))
	succeed(t, err)
	return k
}

// One signature has one text, and is good under one algorithm.
func TestSignaturesHaveOneForm(t *testing.T) {
	input := []byte("header.payload")
	for alg, a := range algorithms {
		k, sig := keyFor(t, alg), signFor(t, alg, input, rsa.PSSSaltLengthEqualsHash)
		for other := range algorithms {
			if got := k.verifies(other, string(input), sig); got != (other == alg) {
				t.Errorf("signature of %s as %s: %v", alg, other, got)
			}
		}
		cases := map[string][]byte{
			"empty": {}, "short": sig[:len(sig)-1], "without its first byte": sig[1:], "and a byte": append(bytes.Clone(sig), 0),
			"after a zero": append([]byte{0}, sig...), "twice": append(bytes.Clone(sig), sig...), "zeros": make([]byte, len(sig)),
			"all ones": bytes.Repeat([]byte{0xff}, len(sig)), "half": sig[:len(sig)/2],
		}
		if pub, ok := k.public.(*ecdsa.PublicKey); ok {
			h := a.hash.New()
			h.Write(input)
			half := len(sig) / 2
			cases["in DER"] = must(ecdsa.SignASN1(rand.Reader, signingKeys()[alg].(*ecdsa.PrivateKey), h.Sum(nil)))
			cases["s before r"] = slices.Concat(sig[half:], sig[:half])
			cases["each with a zero before"] = slices.Concat([]byte{0}, sig[:half], []byte{0}, sig[half:])
			order := pub.Params().N.FillBytes(make([]byte, half))
			cases["r = n"], cases["s = n"] = slices.Concat(order, sig[half:]), slices.Concat(sig[:half], order)
			cases["r = 0"], cases["s = 0"] = slices.Concat(make([]byte, half), sig[half:]), slices.Concat(sig[:half], make([]byte, half))
		}
		for what, bad := range cases {
			if k.verifies(alg, string(input), bad) {
				t.Errorf("%s: signature %s (%x) verifies", alg, what, bad)
			}
		}
	}
}

// RFC 7518, Section 3.4: leading zeros are not to be omitted.
func TestECDSAKeepsLeadingZeros(t *testing.T) {
	k := keyFor(t, "ES256")
	for i := range 1 << 14 {
		input := fmt.Appendf(nil, "%d", i)
		sig := signFor(t, "ES256", input, 0)
		if sig[0] != 0 {
			continue
		}
		if !k.verifies("ES256", string(input), sig) || k.verifies("ES256", string(input), sig[1:]) {
			t.Errorf("signature %x: with its zero %v, without %v", sig, k.verifies("ES256", string(input), sig), k.verifies("ES256", string(input), sig[1:]))
		}
		return
	}
	t.Fatal("no signature has begun with a zero byte")
}

func TestPSSWantsASaltAsLongAsTheHash(t *testing.T) {
	for _, alg := range []string{"PS256", "PS384", "PS512"} {
		size := algorithms[alg].hash.Size()
		k, input := keyFor(t, alg), []byte("header.payload")
		for _, salt := range []int{0, 20, size - 1, size, size + 1} {
			if salt == 0 {
				continue // means "as long as fits" to the standard library's signer
			}
			if got, want := k.verifies(alg, string(input), signFor(t, alg, input, salt)), salt == size; got != want {
				t.Errorf("%s with a salt of %d bytes: %v, want %v", alg, salt, got, want)
			}
		}
	}
}

// What is not of the algorithm's kind verifies nothing, and does not panic.
func TestSignatureOfAnotherKind(t *testing.T) {
	input := []byte("header.payload")
	for alg, a := range algorithms {
		sig := signFor(t, alg, input, rsa.PSSSaltLengthEqualsHash)
		for other := range algorithms {
			k := keyFor(t, other)
			if k.kind != a.kind && k.verifies(alg, string(input), sig) {
				t.Errorf("a signature of %s verifies with a key for %s", alg, other)
			}
			mislabelled := &key{kind: a.kind, public: k.public}
			if k.kind != a.kind && mislabelled.verifies(alg, string(input), sig) {
				t.Errorf("a signature of %s verifies with a key for %s under a wrong name", alg, other)
			}
		}
		for _, public := range []crypto.PublicKey{nil, ed25519.PublicKey{1}} {
			if (&key{kind: a.kind, public: public}).verifies(alg, string(input), sig) {
				t.Errorf("%s verifies with the key %v", alg, public)
			}
		}
	}
	for _, alg := range []string{"", "none", "HS256", "rs256", "RS256 "} {
		if (&key{public: rsaKey1().Public()}).verifies(alg, string(input), signFor(t, "RS256", input, 0)) {
			t.Errorf("something verifies as %q", alg)
		}
	}
}

// FuzzSignature: go-jose and we agree about every signature, good, bent, cut or
// stretched.
func FuzzSignature(f *testing.F) {
	names := make([]string, 0, len(algorithms))
	for alg := range algorithms {
		names = append(names, alg)
	}
	slices.Sort(names)
	for i := range names {
		f.Add(uint8(i), []byte(`{"iss":"a"}`), uint16(0), byte(0), []byte{}, uint16(0))
		f.Add(uint8(i), []byte(`{}`), uint16(3), byte(1), []byte{}, uint16(0))
		f.Add(uint8(i), []byte(``), uint16(0), byte(0), []byte{0}, uint16(1))
	}
	f.Fuzz(func(t *testing.T, which uint8, payload []byte, at uint16, bend byte, tail []byte, cut uint16) {
		alg := names[int(which)%len(names)]
		input := b64([]byte(`{"alg":"`+alg+`"}`)) + "." + b64(payload)
		sig := signFor(t, alg, []byte(input), rsa.PSSSaltLengthEqualsHash)
		sig[int(at)%len(sig)] ^= bend
		sig = append(sig[:len(sig)-int(cut)%len(sig)], tail[:min(len(tail), 64)]...)
		k := keyFor(t, alg)
		got := k.verifies(alg, input, sig)
		jws, err := jose.ParseSignedCompact(input+"."+b64(sig), []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
		if err == nil {
			_, err = jws.Verify(k.public)
		}
		if got != (err == nil) {
			t.Fatalf("%s: %v, go-jose says %v\ninput %s\nsignature %x", alg, got, err, input, sig)
		}
	})
}

// FuzzAppendASN1: two numbers of up to 66 octets are written as encoding/asn1
// writes them.
func FuzzAppendASN1(f *testing.F) {
	f.Add([]byte{0}, []byte{0})
	f.Add([]byte{0, 0x80}, []byte{0x7f})
	f.Add(bytes.Repeat([]byte{0xff}, 66), bytes.Repeat([]byte{0xff}, 66))
	f.Add(bytes.Repeat([]byte{0x7f}, 60), append([]byte{0, 0}, bytes.Repeat([]byte{0x80}, 62)...))
	f.Fuzz(func(t *testing.T, r, s []byte) {
		if len(r) < 1 || len(r) > 66 || len(s) < 1 || len(s) > 66 {
			return
		}
		want := must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)}))
		if got := appendASN1(nil, r, s); !bytes.Equal(got, want) || len(got) > maxASN1 {
			t.Fatalf("r %x, s %x: got %x, want %x", r, s, got, want)
		}
	})
}
