package ceremony

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"
)

// Minutes is what the minutes of a ceremony are made from.
type Minutes struct {
	// Time, Host and Program say when, where and with what.
	Time          time.Time
	Host, Program string
	// Plan is what was announced and agreed to.
	Plan string
	// RootKey and IssuingKey say where the two private keys are.
	RootKey, IssuingKey string
	Hierarchy           *Hierarchy
	// Files are all files that are written beside the minutes.
	Files []File
	// Next is what is to be done now, in order.
	Next []string
}

// Text returns the minutes as a page to print and sign. It holds no secret.
func (m Minutes) Text() string {
	var b strings.Builder
	heading := func(text string) { fmt.Fprintf(&b, "\n%s\n%s\n", text, strings.Repeat("-", len(text))) }
	fmt.Fprintf(&b, "Minutes of a key ceremony\n=========================\n\ntime     %s\nhost     %s\nprogram  %s\n",
		m.Time.UTC().Format(time.RFC3339), m.Host, m.Program)
	heading("Plan")
	b.WriteString(m.Plan)
	heading("Certificates")
	writeCertificate(&b, "root", m.Hierarchy.Root, m.RootKey)
	writeCertificate(&b, "intermediate", m.Hierarchy.Issuing, m.IssuingKey)
	heading("Checks")
	for _, f := range m.Hierarchy.Findings {
		fmt.Fprintf(&b, "%-8s %-20s %s\n", f.Level, f.Check, f.Text)
	}
	heading("Files, with SHA-256")
	for _, f := range m.Files {
		fmt.Fprintf(&b, "%s  %s\n", hexSum(f.Data), f.Name)
	}
	heading("To be done now")
	for i, step := range m.Next {
		fmt.Fprintf(&b, "%d. %s\n", i+1, step)
	}
	heading("Present")
	b.WriteString(strings.Repeat("\nname, signature  ______________________________________________\n", 3))
	return b.String()
}

func writeCertificate(b *strings.Builder, what string, c *x509.Certificate, key string) {
	fmt.Fprintf(b, `%s
  subject      %s
  serial       %x
  valid        %s to %s
  key SHA-256  %s
  SHA-256      %s
  private key  %s
`, what, ShowName(c.RawSubject), c.SerialNumber, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339),
		hexSum(c.RawSubjectPublicKeyInfo), hexSum(c.Raw), key)
}
