package ca

import (
	"bytes"
	"encoding/asn1"
	"testing"
)

// Lengths change their form at 128, 256 and 65536 bytes.
func TestEncloseMatchesAnotherEncoder(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 20} {
		content := bytes.Repeat([]byte{0xa5}, n)
		want, err := asn1.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		before := []byte("before")
		got := enclose(append(before, content...), len(before), asn1.TagOctetString)
		if !bytes.HasPrefix(got, before) || !bytes.Equal(got[len(before):], want) {
			t.Errorf("%d bytes: got %.20x, want %q and %.20x", n, got, before, want)
		}
	}
}

// A certificate's parts must not see what is appended to another of them.
func TestFormsOfACertificateShareNoBytes(t *testing.T) {
	_, encoded, pre, final := pair(t)
	plain := encoded.with(nil)
	kept := bytes.Clone(plain)
	for _, der := range [][]byte{pre, final, encoded.fields, encoded.extensions} {
		clear(der[:cap(der)])
	}
	if !bytes.Equal(plain, kept) {
		t.Errorf("the log's view became %x, was %x", plain, kept)
	}
}
