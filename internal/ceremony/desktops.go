package ceremony

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// oidsMicrosoft are extensions that AD CS writes: [MS-WCCE], Section 2.2.2.7.
var oidsMicrosoft = []asn1.ObjectIdentifier{
	{1, 3, 6, 1, 4, 1, 311, 20, 2}, // certificate template name
	{1, 3, 6, 1, 4, 1, 311, 21, 1}, // CA version
	{1, 3, 6, 1, 4, 1, 311, 21, 7}, // certificate template
}

// DesktopEvidence looks for signs that ordinary machines trust the last
// certificate of a path, which is the one question that nobody can answer from
// the certificates alone. It returns a warning for each; none found proves
// nothing. system may be nil.
func DesktopEvidence(path []*x509.Certificate, system *x509.CertPool, now time.Time) []ca.Finding {
	var findings []ca.Finding
	warn := func(text string) {
		findings = append(findings, ca.Finding{Check: ca.CheckDesktops, Level: ca.Warning, Text: text})
	}
	if slices.ContainsFunc(path, fromActiveDirectory) {
		warn("the chain comes from Active Directory Certificate Services, whose enterprise roots every domain member trusts: " +
			"unless this root was kept out of the directory, Windows will believe what is signed with our certificates; " +
			"look with: certutil -enterprise -store Root")
	}
	if len(path) > 0 && system != nil {
		root := path[len(path)-1]
		_, err := root.Verify(x509.VerifyOptions{Roots: system, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err == nil {
			warn("this machine trusts the root, so others that were set up like it do, too")
		}
	}
	return findings
}

func fromActiveDirectory(c *x509.Certificate) bool {
	ldap := func(url string) bool { return strings.HasPrefix(strings.ToLower(url), "ldap:") }
	if slices.ContainsFunc(c.CRLDistributionPoints, ldap) || slices.ContainsFunc(c.IssuingCertificateURL, ldap) {
		return true
	}
	for _, e := range c.Extensions {
		if slices.ContainsFunc(oidsMicrosoft, e.Id.Equal) {
			return true
		}
	}
	return false
}
