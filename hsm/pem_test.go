package hsm

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
)

// The library that decrypts panics on these, or works for years.
func TestCheckPBES2Refuses(t *testing.T) {
	oid := func(n ...int) asn1.ObjectIdentifier { return n }
	marshal := func(v any) asn1.RawValue {
		t.Helper()
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return asn1.RawValue{FullBytes: der}
	}
	type pbkdf2 struct {
		Salt       []byte
		Iterations int
	}
	type scrypt struct {
		Salt    []byte
		N, R, P int
	}
	algorithm := func(o asn1.ObjectIdentifier, params any) pkix.AlgorithmIdentifier {
		return pkix.AlgorithmIdentifier{Algorithm: o, Parameters: marshal(params)}
	}
	salt, iv, data := make([]byte, 8), make([]byte, 16), make([]byte, 64)
	kdf := algorithm(oidPBKDF2, pbkdf2{salt, 2048})
	for _, c := range []struct {
		name   string
		outer  asn1.ObjectIdentifier
		kdf    pkix.AlgorithmIdentifier
		cipher pkix.AlgorithmIdentifier
		data   []byte
		want   string // empty: accepted
	}{
		{"good PBKDF2", oidPBES2, kdf, algorithm(oidsAESCBC[2], iv), data, ""},
		{"good scrypt", oidPBES2, algorithm(oidScrypt, scrypt{salt, 16384, 8, 1}), algorithm(oidsAESCBC[0], iv), data, ""},
		{"PBES1", oid(1, 2, 840, 113549, 1, 5, 10), kdf, algorithm(oidsAESCBC[2], iv), data, "only PBES2"},
		{"AES-GCM", oidPBES2, kdf, algorithm(oid(2, 16, 840, 1, 101, 3, 4, 1, 46), iv), data, "only AES in CBC"},
		{"short IV", oidPBES2, kdf, algorithm(oidsAESCBC[2], iv[:8]), data, "malformed IV"},
		{"no IV", oidPBES2, kdf, algorithm(oidsAESCBC[2], []byte{}), data, "malformed IV"},
		{"half a block", oidPBES2, kdf, algorithm(oidsAESCBC[2], iv), data[:40], "cut short"},
		{"no ciphertext", oidPBES2, kdf, algorithm(oidsAESCBC[2], iv), nil, "cut short"},
		{"no iterations", oidPBES2, algorithm(oidPBKDF2, pbkdf2{salt, 0}), algorithm(oidsAESCBC[2], iv), data, "0 iterations"},
		{"iterations for years", oidPBES2, algorithm(oidPBKDF2, pbkdf2{salt, 1 << 40}), algorithm(oidsAESCBC[2], iv), data, "iterations"},
		{"scrypt with all memory", oidPBES2, algorithm(oidScrypt, scrypt{salt, 1 << 30, 8, 1}), algorithm(oidsAESCBC[2], iv), data, "memory"},
		{"scrypt with overflow", oidPBES2, algorithm(oidScrypt, scrypt{salt, 1 << 20, 1 << 60, 1}), algorithm(oidsAESCBC[2], iv), data, "memory"},
		{"scrypt for years", oidPBES2, algorithm(oidScrypt, scrypt{salt, 16384, 8, 1 << 30}), algorithm(oidsAESCBC[2], iv), data, "memory"},
		{"unknown KDF", oidPBES2, algorithm(oid(1, 2, 3), salt), algorithm(oidsAESCBC[2], iv), data, "only PBKDF2 and scrypt"},
	} {
		der := marshal(struct {
			Algorithm pkix.AlgorithmIdentifier
			Data      []byte
		}{algorithm(c.outer, struct{ KDF, Cipher pkix.AlgorithmIdentifier }{c.kdf, c.cipher}), c.data}).FullBytes
		err := checkPBES2(der)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: checkPBES2(%x) = %v, want nil", c.name, der, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: checkPBES2(%x) = %v, want an error with %q", c.name, der, err, c.want)
		}
	}
}
