package hsm

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

// FuzzParseKey holds the parser to errors instead of panics, and to keys that
// are whole. The derivation of encrypted keys is left out for speed: what
// guards it, checkPBES2, is not.
func FuzzParseKey(f *testing.F) {
	files, err := filepath.Glob("testdata/*.pem")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds in testdata: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := parseKey(text, nil)
		if (key == nil) == (err == nil) {
			t.Fatalf("parseKey(%q) = %v, %v; want a key or an error", text, key, err)
		}
		if key != nil {
			_ = CheckPublic(key.Public())
		}
		if block, _ := pem.Decode(text); block != nil {
			_ = checkPBES2(block.Bytes)
		}
	})
}
