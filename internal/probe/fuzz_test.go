package probe

import (
	"strings"
	"testing"
)

// FuzzReadKey: a key that is called usable can be named and has an algorithm, and
// whatever a provider writes into a key stays on its line of the report.
func FuzzReadKey(f *testing.F) {
	const p256 = `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"`
	for _, more := range []string{
		`}`, `,"kid":"1","use":"sig","alg":"ES256"}`, `,"d":"AA"}`, `,"kid":"a\u001b[2J"}`, `,"use":"enc\n"}`, `,"key_ops":["verify"]}`, `,"kid":"1","kid":"2"}`,
	} {
		f.Add([]byte(p256 + more))
	}
	f.Add([]byte(`{"kty":"RSA","n":"` + thumbprintModulus + `","e":"AQAB"}`))
	f.Add([]byte(`{"kty":"oct","k":"AA"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := readKey(text)
		if err == nil && (len(k.Thumbprint) != 43 || len(fitting(k)) == 0) {
			t.Errorf("%q: usable without thumbprint or algorithm: %+v", text, k)
		}
		if line := k.String(); strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q: the line holds control characters: %q", text, line)
		}
	})
}
