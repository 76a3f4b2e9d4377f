package ca

import (
	"bytes"
	"encoding/pem"
	"testing"
)

// FuzzEncodePEM: ours is what encoding/pem makes, without the final newline.
func FuzzEncodePEM(f *testing.F) {
	for _, n := range []int{0, 1, 47, 48, 49, 95, 96, 97, 1000} {
		f.Add(bytes.Repeat([]byte{0xfb}, n))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		want := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		if got := encodePEM(der) + "\n"; got != want {
			t.Fatalf("%x: got %q, want %q", der, got, want)
		}
	})
}
