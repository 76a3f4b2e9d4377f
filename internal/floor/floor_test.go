package floor

import (
	"fmt"
	"slices"
	"testing"
)

// count returns the operations as "name xN" lines.
func count(f *Floor) (lines []string) {
	for _, op := range f.Operations() {
		lines = append(lines, fmt.Sprintf("%s x%d", op.Name, op.Count))
	}
	return lines
}

func TestOperationsAreThoseOfTheDesign(t *testing.T) {
	for name, tc := range map[string]struct {
		spec Spec
		want []string
	}{
		"default": {Spec{}, []string{
			"token verified, RS256 x1", "proof verified, P-256 x1",
			"precertificate signed, P-256 x1", "certificate signed, P-256 x1",
			"SCT signed, P-256 x1", "SCT verified, P-256 x1", "certificate verified, P-256 x1",
		}},
		"remote log": {Spec{CAKey: "P-384", Token: "ES256", Client: "RSA-2048", Log: LogRemote}, []string{
			"token verified, ES256 x1", "proof verified, RSA-2048 x1",
			"precertificate signed, P-384 x1", "certificate signed, P-384 x1",
			"SCT verified, P-256 x1", "certificate verified, P-384 x1",
		}},
		"no log": {Spec{CAKey: "RSA-3072", Client: "Ed25519", Log: LogNone}, []string{
			"token verified, RS256 x1", "proof verified, Ed25519 x1",
			"certificate signed, RSA-3072 x1", "certificate verified, RSA-3072 x1",
		}},
		"Fulcio": {Spec{Design: Fulcio, Client: "P-384"}, []string{
			"token verified, RS256 x1", "proof verified, P-384 x1",
			"precertificate signed, P-256 x1", "certificate signed, P-256 x1",
			"precertificate verified, P-256 x1", "SCT verified, P-256 x1", "certificate verified, P-256 x1",
		}},
		"Fulcio without a log": {Spec{Design: Fulcio, Log: LogNone}, []string{
			"token verified, RS256 x1", "proof verified, P-256 x1",
			"certificate signed, P-256 x1", "certificate verified, P-256 x1",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := New(tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			if got := count(f); !slices.Equal(got, tc.want) {
				t.Errorf("%+v:\ngot  %q\nwant %q", tc.spec, got, tc.want)
			}
			if err := f.Round(); err != nil {
				t.Errorf("%+v: %v", tc.spec, err)
			}
			if cpu := f.CPU(1); cpu <= 0 {
				t.Errorf("%+v: a round took %v of CPU", tc.spec, cpu)
			}
		})
	}
}

func TestNewRefusesWhatNoDesignHas(t *testing.T) {
	for _, spec := range []Spec{
		{Design: "other"},
		{CAKey: "Ed25519"}, // clients refuse it
		{CAKey: "RSA-2048"},
		{Token: "HS256"},
		{Client: "P-521"},
		{Log: "paper"},
		{Design: Fulcio, Log: LogEmbedded},
	} {
		if f, err := New(spec); err == nil {
			t.Errorf("New(%+v) = %q, want an error", spec, count(f))
		}
	}
}

// Every key signs and verifies, and a signature of another kind's would not pass:
// a floor that does nothing would make every ratio look bad.
func TestRoundFailsWhenAnOperationDoes(t *testing.T) {
	f, err := New(Spec{Client: "RSA-4096"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Round(); err != nil {
		t.Fatal(err)
	}
	f.operations[1].do = func() error { return errVerdict }
	if err := f.Round(); err == nil {
		t.Error("a round whose proof does not verify succeeded")
	}
}

func BenchmarkRound(b *testing.B) {
	for _, spec := range []Spec{{}, {CAKey: "P-384"}, {CAKey: "RSA-3072"}, {Design: Fulcio}} {
		b.Run(fmt.Sprintf("%s-%s", spec.withDefaults().Design, spec.withDefaults().CAKey), func(b *testing.B) {
			f, err := New(spec)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := f.Round(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
