package ceremony

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
)

func TestParseNameReadsWhatPeopleWrite(t *testing.T) {
	for _, c := range []struct{ in, out, shown string }{
		{"CN=Mayfly Issuing CA 1,O=Example Corp,C=DE", "CN=Mayfly Issuing CA 1,O=Example Corp,C=DE", "CN=Mayfly Issuing CA 1,O=Example Corp,C=DE"},
		{"cn=A, o=B", "CN=A,O=B", "CN=A,O=B"},
		{`CN=A\, B \2b \#1,O=\#x`, `CN=A\, B \+ #1,O=\#x`, `CN=A\, B \+ #1,O=\#x`},
		{`CN=M\C3\BCller`, "CN=Müller", "CN=Müller"},
		{"CN=a=b", "CN=a=b", "CN=a=b"},
		{"CN=Issuing,OU=B,OU=A,DC=corp,DC=example", "CN=Issuing,OU=B,OU=A,DC=corp,DC=example", ""},
	} {
		got, err := ParseName(c.in)
		if err != nil || got.String() != c.out {
			t.Errorf("ParseName(%q) = %q, %v; want %q", c.in, got, err, c.out)
			continue
		}
		var seq pkix.RDNSequence
		if rest, err := asn1.Unmarshal(got.DER(), &seq); err != nil || len(rest) > 0 {
			t.Errorf("ParseName(%q): its DER does not parse: %v", c.in, err)
		}
		if shown := seq.String(); c.shown != "" && shown != c.shown {
			t.Errorf("ParseName(%q): crypto/x509/pkix shows %q, want %q", c.in, shown, c.shown)
		}
	}
}

func TestParseNameRefusesWhatItWouldHaveToGuess(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "empty"},
		{"/CN=A/O=B", "OpenSSL's old form"},
		{"Mayfly", "TYPE=value"},
		{"CN=A,", "TYPE=value"},
		{"CN=A,,O=B", "unknown attribute"},
		{"O=A", "CN is missing"},
		{"CN=A,CN=B", "CN is given twice"},
		{"CN=A+O=B", `'+' must be written`},
		{"CN=A;O=B", `';' must be written`},
		{"CN= A", "must be written"},
		{"CN=A ,O=B", "ends with a space"},
		{`CN=A\ `, "begins or ends with a space"},
		{"CN =A", `unknown attribute "CN "`},
		{"CN=#0401", "must be written"},
		{`CN=A\`, "backslash"},
		{`CN=A\x`, "backslash"},
		{`CN=\FF`, "not UTF-8"},
		{`CN=A\00`, "cannot be printed"},
		{"CN=A\nB", "cannot be printed"},
		{"CN=A\u202eB", "cannot be printed"},
		{"2.5.4.3=A", "unknown attribute"},
		{"emailAddress=a@b,CN=A", "unknown attribute"},
		{"CN=A,C=de", "two capital letters"},
		{"CN=A,C=DEU", "more than 2"},
		{"CN=A,DC=ü", "not ASCII"},
		{"CN=", "empty"},
		{"CN=" + strings.Repeat("a", 65), "more than 64"},
		{"CN=A" + strings.Repeat(",OU=B", 16), "more than 16 parts"},
		{"CN=" + strings.Repeat("a", 1100), "more than 1024"},
	} {
		if got, err := ParseName(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseName(%q) = %q, %v; want an error with %q", c.in, got, err, c.want)
		}
	}
}

// What is accepted says the same after it was printed and read again, and the
// standard library reads its encoding.
func FuzzParseName(f *testing.F) {
	for _, s := range []string{"CN=A,O=B,C=DE", `CN=\C3\BC\, \#`, "cn=a, ou=b,ou=c", "CN=A+O=B", `CN=\`, "DC=corp,CN=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseName(text)
		if err != nil {
			return
		}
		again, err := ParseName(n.String())
		if err != nil || string(again.der) != string(n.der) || again.text != n.text {
			t.Fatalf("ParseName(%q) prints %q, which parses to %q, %v", text, n, again, err)
		}
		var seq pkix.RDNSequence
		if rest, err := asn1.Unmarshal(n.der, &seq); err != nil || len(rest) > 0 {
			t.Fatalf("ParseName(%q): DER %x: %v", text, n.der, err)
		}
	})
}
