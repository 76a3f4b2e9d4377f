package ca

import (
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"
	"time"
)

// allChecks is every check, in the order of Inspect.
var allChecks = []string{
	CheckPath, CheckDuplicates, CheckKey, CheckAuthority, CheckPathLength, CheckKeyUsage, CheckPurpose, CheckConstraints,
	CheckValidity, CheckAlgorithms, CheckIdentifiers, CheckCritical, CheckSize, CheckRehearsal, CheckDesktops,
}

func TestInspectAnswersEveryCheck(t *testing.T) {
	p := newPKI(t, p256(t), nil)
	findings := Inspect([]*x509.Certificate{p.intermediate, p.root}, p.key.Public(), testTime)
	var got []string
	for _, f := range findings {
		got = append(got, f.Check)
		if want := map[bool]Level{true: Note, false: OK}[f.Check == CheckDesktops]; f.Level != want || f.Text == "" {
			t.Errorf("%s: %v %q, want %v and a text", f.Check, f.Level, f.Text, want)
		}
	}
	if !slices.Equal(got, allChecks) {
		t.Errorf("checks\n got %v\nwant %v", got, allChecks)
	}
	if findings = Inspect(nil, nil, testTime); Worst(findings) != Problem {
		t.Errorf("no certificates: %v, want a problem", findings)
	}
}

// nameConstraint encodes one permitted subtree of a kind of general name.
func nameConstraint(critical bool, tag byte, base string) pkix.Extension {
	subtree := append([]byte{tag, byte(len(base))}, base...)
	seq := append([]byte{0x30, byte(len(subtree))}, subtree...)
	permitted := append([]byte{0xa0, byte(len(seq))}, seq...)
	return pkix.Extension{Id: oidNameConstraints, Critical: critical, Value: append([]byte{0x30, byte(len(permitted))}, permitted...)}
}

func TestInspectFinds(t *testing.T) {
	day := 24 * time.Hour
	type spoil = func(root, inter *x509.Certificate)
	directory := string([]byte{0x30, 0})
	for _, tc := range []struct {
		name  string
		spoil spoil
		check string
		level Level
		want  string
	}{
		{"no usage for purposes", func(_, i *x509.Certificate) { i.ExtKeyUsage = nil }, CheckPurpose, Note, "AD CS"},
		{"any purpose", func(_, i *x509.Certificate) { i.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, CheckPurpose, Note, "more than codeSigning"},
		{"root for servers only", func(r, _ *x509.Certificate) { r.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, CheckPurpose, Problem, "lacks codeSigning"},
		{"no key usage", func(_, i *x509.Certificate) { i.KeyUsage = 0 }, CheckKeyUsage, Warning, "no key usage"},
		{"unlimited path", func(_, i *x509.Certificate) { i.MaxPathLen, i.MaxPathLenZero = -1, false }, CheckPathLength, Note, "pathlen:0"},
		{"70 days", func(_, i *x509.Certificate) { i.NotAfter = testTime.Add(69 * day) }, CheckValidity, Warning, "less than 70 days"},
		{"30 days", func(r, _ *x509.Certificate) { r.NotAfter = testTime.Add(29 * day) }, CheckValidity, Warning, "less than 30 days"},
		{"7 days", func(_, i *x509.Certificate) { i.NotAfter = testTime.Add(6 * day) }, CheckValidity, Warning, "less than 7 days"},
		{"too late", func(_, i *x509.Certificate) { i.NotAfter = testTime.Add(9 * time.Minute) }, CheckValidity, Warning, "would outlive"},
		{"too early", func(_, i *x509.Certificate) { i.NotBefore = testTime.Add(day) }, CheckValidity, Note, "not valid before"},
		{"root ends first", func(r, _ *x509.Certificate) { r.NotAfter = testTime.Add(400 * day) }, CheckValidity, Note, "ends before the certificate below"},
		{"never ten minutes", func(_, i *x509.Certificate) { i.NotBefore, i.NotAfter = testTime, testTime.Add(9*time.Minute) }, CheckRehearsal, Problem, "ten minutes"},
		{"constrained e-mail", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"corp.example"} }, CheckConstraints, Note, `permitted e-mail "corp.example"`},
		{"not critical", func(_, i *x509.Certificate) {
			i.ExtraExtensions = []pkix.Extension{nameConstraint(false, 0x81, "corp.example")}
		}, CheckConstraints, Note, "not critical"},
		{"all e-mail excluded", func(_, i *x509.Certificate) {
			i.PermittedEmailAddresses, i.ExcludedEmailAddresses = []string{"corp.example"}, []string{"corp.example"}
		}, CheckRehearsal, Warning, "kind email"},
		{"constrained directory names", func(_, i *x509.Certificate) {
			i.ExtraExtensions = []pkix.Extension{nameConstraint(true, 0xa4, directory)}
		}, CheckConstraints, Problem, "kind directoryName"},
		{"directory names, not critical", func(_, i *x509.Certificate) {
			i.ExtraExtensions = []pkix.Extension{nameConstraint(false, 0xa4, directory)}
		}, CheckConstraints, Note, "no certificate of ours has"},
		{"other names, not critical", func(_, i *x509.Certificate) {
			i.ExtraExtensions = []pkix.Extension{nameConstraint(false, 0xa0, directory)}
		}, CheckConstraints, Problem, "kind otherName"},
		{"unknown critical extension", func(_, i *x509.Certificate) {
			i.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: asn1.NullBytes}}
		}, CheckCritical, Problem, "1.2.3.4"},
		// RFC 5280, Section 6.1: from here on down an explicit policy is
		// required, which our certificates do not have.
		{"explicit policy required", func(_, i *x509.Certificate) {
			i.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 3, 0x80, 1, 0}}}
		}, CheckRehearsal, Problem, "would not verify"},
		{"basic constraints not critical", func(_, i *x509.Certificate) {
			i.ExtraExtensions = []pkix.Extension{{Id: oidBasicConstraints, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}, CheckAuthority, Warning, "not critical"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPKI(t, p256(t), tc.spoil)
			wantFinding(t, Inspect([]*x509.Certificate{p.intermediate, p.root}, p.key.Public(), testTime), tc.check, tc.level, tc.want)
			_, err := NewChain(ChainConfig{Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key}, testTime)
			if (err == nil) == (tc.level == Problem) {
				t.Errorf("NewChain: %v, but the finding's level is %v", err, tc.level)
			}
			if err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("NewChain says %q, not in the words of the finding %q", err, tc.want)
			}
		})
	}
}

func wantFinding(t *testing.T, findings []Finding, check string, level Level, text string) {
	t.Helper()
	found := slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Check == check && f.Level == level && strings.Contains(f.Text, text)
	})
	if !found {
		t.Errorf("no %v of check %s that says %q in %+v", level, check, text, findings)
	}
	for _, c := range allChecks {
		if c != CheckRehearsal && !slices.ContainsFunc(findings, func(f Finding) bool { return f.Check == c }) {
			t.Errorf("check %s left no finding", c)
		}
	}
}

func TestInspectLooksAtTheWholePath(t *testing.T) {
	p, q := newPKI(t, p256(t), nil), newPKI(t, p256(t), nil)
	path := func(certs ...*x509.Certificate) []*x509.Certificate { return certs }
	for _, tc := range []struct {
		name  string
		certs []*x509.Certificate
		key   crypto.PublicKey
		check string
		level Level
		want  string
	}{
		{"twice", path(p.intermediate, p.intermediate, p.root), p.key.Public(), CheckDuplicates, Problem, "same as certificate 1"},
		{"wrong order", path(p.root, p.intermediate), p.key.Public(), CheckPath, Problem, "issuing certificate first"},
		{"no root", path(p.intermediate), p.key.Public(), CheckPath, Problem, "not a self-signed root"},
		{"foreign root", path(p.intermediate, q.root), p.key.Public(), CheckPath, Problem, "authority key identifier"},
		{"foreign key", path(p.intermediate, p.root), q.key.Public(), CheckKey, Problem, "does not belong"},
		{"no key", path(p.intermediate, p.root), nil, CheckKey, Note, "no key was given"},
		{"root alone", path(p.root), p.root.PublicKey, CheckPath, Warning, "issues by itself"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantFinding(t, Inspect(tc.certs, tc.key, testTime), tc.check, tc.level, tc.want)
		})
	}
}

// rootedIn makes a root with the key and an intermediate under it.
func rootedIn(t *testing.T, rootKey crypto.Signer, alg x509.SignatureAlgorithm, end time.Time) pki {
	t.Helper()
	key := p256(t)
	root := &x509.Certificate{
		SerialNumber: newPKI(t, key, nil).root.SerialNumber, Subject: pkix.Name{CommonName: "Old Root"}, SignatureAlgorithm: alg,
		NotBefore: testTime.AddDate(-10, 0, 0), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root = signCert(t, root, root, rootKey.Public(), rootKey)
	inter := &x509.Certificate{
		SerialNumber: root.SerialNumber, Subject: pkix.Name{CommonName: "Issuing"},
		NotBefore: testTime.AddDate(-1, 0, 0), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true,
	}
	return pki{root, signCert(t, inter, root, key.Public(), rootKey), &memSigner{Signer: key}}
}

func TestInspectJudgesAlgorithms(t *testing.T) {
	soon, late := testTime.AddDate(1, 0, 0), testTime.AddDate(15, 0, 0)
	for _, tc := range []struct {
		name  string
		key   crypto.Signer
		alg   x509.SignatureAlgorithm
		end   time.Time
		level Level
		want  string
	}{
		{"SHA-1 in the root's own signature", rsaKey(t, 2048), x509.SHA1WithRSA, soon, Note, "SHA-1 by itself"},
		{"RSA 2048 beyond 2030", rsaKey(t, 2048), x509.SHA256WithRSA, late, Note, "beyond 2030"},
		{"RSA 1024", rsaKey(t, 1024), x509.SHA256WithRSA, soon, Problem, "1024 bits"},
		{"RSASSA-PSS", rsaKey(t, 2048), x509.SHA256WithRSAPSS, soon, Warning, "RSASSA-PSS"},
		{"root on P-521", mustECDSA(t, elliptic.P521()), 0, soon, Warning, "P-521"},
		{"Ed25519 root", mustEd25519(t), 0, soon, Warning, "Ed25519"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := rootedIn(t, tc.key, tc.alg, tc.end)
			wantFinding(t, Inspect([]*x509.Certificate{p.intermediate, p.root}, p.key.Public(), testTime), CheckAlgorithms, tc.level, tc.want)
		})
	}
}

func TestInspectRefusesSHA1BelowTheRoot(t *testing.T) {
	rootKey := rsaKey(t, 2048)
	p := rootedIn(t, rootKey, x509.SHA256WithRSA, testTime.AddDate(1, 0, 0))
	template := *p.intermediate
	template.SignatureAlgorithm = x509.SHA1WithRSA
	p.intermediate = signCert(t, &template, p.root, p.key.Public(), rootKey)
	wantFinding(t, Inspect([]*x509.Certificate{p.intermediate, p.root}, p.key.Public(), testTime), CheckPath, Problem, "signed with SHA-1")
}

func TestInspectNoticesADamagedOldRoot(t *testing.T) {
	p := rootedIn(t, rsaKey(t, 2048), x509.SHA1WithRSA, testTime.AddDate(1, 0, 0))
	damaged := *p.root
	damaged.Signature = slices.Clone(damaged.Signature)
	damaged.Signature[10] ^= 1
	wantFinding(t, Inspect([]*x509.Certificate{p.intermediate, &damaged}, p.key.Public(), testTime), CheckPath, Problem, "not by its own key")
}

func TestInspectMeasuresAgainstOpenShift(t *testing.T) {
	p := newPKI(t, p256(t), func(_, i *x509.Certificate) {
		i.CRLDistributionPoints = []string{"ldap:///" + strings.Repeat("x", 5000)}
	})
	wantFinding(t, Inspect([]*x509.Certificate{p.intermediate, p.root}, p.key.Public(), testTime), CheckSize, Warning, "8192")
}

func TestInspectKeepsControlCharactersOffTerminals(t *testing.T) {
	p := newPKI(t, p256(t), func(_, i *x509.Certificate) { i.Subject.CommonName = "\x1b[2Jevil"; i.KeyUsage = 0 })
	for _, f := range Inspect([]*x509.Certificate{p.intermediate, p.root}, p.key.Public(), testTime) {
		if strings.Contains(f.Text, "\x1b") {
			t.Errorf("%s: %q holds an escape character", f.Check, f.Text)
		}
	}
}

func TestRetiredChainMayHaveExpired(t *testing.T) {
	p := newPKI(t, p256(t), func(_, i *x509.Certificate) { i.NotAfter = testTime.Add(-time.Hour) })
	cfg := ChainConfig{Name: "old", Certificates: []*x509.Certificate{p.intermediate, p.root}, Retire: testTime.Add(-2 * time.Hour)}
	if _, err := NewChain(cfg, testTime); err != nil {
		t.Errorf("a retired chain that expired is refused, so signatures made before could not be verified: %v", err)
	}
	cfg.Retire = testTime.Add(time.Hour)
	if _, err := NewChain(cfg, testTime); err == nil || !strings.Contains(err.Error(), "write retire:") {
		t.Errorf("an expired chain that still signs: %v, want it refused with what to write", err)
	}
}
