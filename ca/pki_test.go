package ca

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestInspectAcceptsWhatPKIsMake inspects chains made by the PKIs of
// organizations; testdata/pki/README.md says how. Each is usable, and what is
// worth knowing about it is said.
func TestInspectAcceptsWhatPKIsMake(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		file string
		says map[string]string // by check, of those that are more than ok
	}{
		{"openssl/chain.pem", nil},
		{"openbao/chain.pem", nil},
		{"adcs/chain.pem", map[string]string{CheckPurpose: "AD CS", CheckPathLength: "pathlen:0"}},
		{"ejbca/chain.pem", map[string]string{CheckPurpose: "no extended key usage", CheckPathLength: "pathlen:0"}},
		{"ejbca/fullchain.pem", map[string]string{CheckPurpose: "no extended key usage", CheckPathLength: "pathlen:0"}},
	} {
		t.Run(tc.file, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata/pki", tc.file))
			if err != nil {
				t.Fatal(err)
			}
			certs, err := ParseChain(data)
			if err != nil {
				t.Fatal(err)
			}
			said := map[string]bool{}
			for _, f := range Inspect(certs, certs[0].PublicKey, now) {
				want, expected := tc.says[f.Check]
				if f.Level > Note || f.Level == Note && !expected && f.Check != CheckDesktops {
					t.Errorf("%s: %v %q", f.Check, f.Level, f.Text)
				}
				said[f.Check] = said[f.Check] || f.Level == Note && strings.Contains(f.Text, want)
			}
			for check, text := range tc.says {
				if !said[check] {
					t.Errorf("%s does not say %q", check, text)
				}
			}
			if !said[CheckDesktops] {
				t.Error("does not ask whether desktops trust the root")
			}
		})
	}
}
