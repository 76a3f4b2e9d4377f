package ceremony

import (
	"crypto"
	"encoding/pem"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

const pkiDir = "../../ca/testdata/pki/"

func readFixture(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(pkiDir + file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fixtureKey is the key that every fixture was made for.
func fixtureKey(t testing.TB) crypto.PublicKey {
	t.Helper()
	block, _ := pem.Decode(readFixture(t, "ca.csr"))
	r, err := ParseRequest(block.Bytes)
	if err != nil {
		t.Fatalf("ParseRequest of the fixtures' request = %v", err)
	}
	return r.PublicKey()
}

// What organizations' PKIs make of our request can be used, with exactly these
// remarks. Where the fixtures come from, their README says.
func TestChainsOfEveryPKIAreUsable(t *testing.T) {
	key, now := fixtureKey(t), time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)
	noEKU := []string{"note path-length", "note extended-key-usage", "note desktops"}
	for _, c := range []struct {
		file, form string
		findings   []string
	}{
		{"openssl/chain.pem", "PEM", []string{"note desktops"}},
		{"openbao/chain.pem", "PEM", []string{"note desktops"}},
		{"ejbca/chain.pem", "PEM", noEKU},
		{"ejbca/fullchain.pem", "PEM", noEKU},
		{"adcs/chain.pem", "PEM", append(slices.Clone(noEKU), "warning desktops")},
		{"adcs/certnew.p7b", "PKCS#7 in DER", append(slices.Clone(noEKU), "warning desktops")},
	} {
		certs, form, err := ReadCertificates(readFixture(t, c.file))
		if err != nil || form != c.form {
			t.Errorf("ReadCertificates(%s) = %q, %v; want %q", c.file, form, err, c.form)
			continue
		}
		path, rest, err := Order(certs, key)
		if err != nil || len(path) != 2 || len(rest) != 0 {
			t.Errorf("Order(%s) = %d and %d certificates, %v; want a path of 2", c.file, len(path), len(rest), err)
			continue
		}
		var got []string
		for _, f := range append(ca.Inspect(path, key, now), DesktopEvidence(path, nil, now)...) {
			if f.Level > ca.OK {
				got = append(got, f.Level.String()+" "+f.Check)
			}
		}
		if !slices.Equal(got, c.findings) {
			t.Errorf("%s: findings %q, want %q", c.file, got, c.findings)
		}
	}
}

// AD CS hands out the certificate alone; the root comes from elsewhere.
func TestOrderJoinsWhatCameSeparately(t *testing.T) {
	key := fixtureKey(t)
	issued, form, err := ReadCertificates(readFixture(t, "adcs/issued.cer"))
	if err != nil || form != "DER" {
		t.Fatalf("ReadCertificates(issued.cer) = %q, %v; want DER", form, err)
	}
	chain, _, err := ReadCertificates(readFixture(t, "adcs/chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if path, _, err := Order(append(issued, chain[1]), key); err != nil || len(path) != 2 {
		t.Errorf("Order of certificate and root = %d certificates, %v; want 2", len(path), err)
	}
	findings := ca.Inspect(issued, key, time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC))
	if ca.Worst(findings) != ca.Problem {
		t.Errorf("Inspect of the certificate without its root finds nothing worse than %v, want a problem", ca.Worst(findings))
	}
}

// Names are shown as the PKI's administrator knows them.
func TestShowNameKnowsDomainComponents(t *testing.T) {
	chain, _, err := ReadCertificates(readFixture(t, "adcs/chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ShowName(chain[1].RawSubject), "CN=Corp-Root-CA,DC=corp,DC=example"; got != want {
		t.Errorf("ShowName of the AD CS root = %q, want %q", got, want)
	}
	if got, want := ShowName(chain[0].RawSubject), "CN=Mayfly Issuing CA 1,O=Example Corp,C=DE"; got != want {
		t.Errorf("ShowName of the issuing certificate = %q, want %q", got, want)
	}
}
