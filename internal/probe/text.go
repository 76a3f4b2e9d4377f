package probe

import (
	"fmt"
	"io"
	"strings"
)

// WriteText writes the report for people, the configuration last.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Issuer %s\n\n", r.URL)
	for _, f := range r.Facts {
		fmt.Fprintf(&b, "  %-11s %s\n", f.Name, f.Value)
	}
	if len(r.Keys) > 0 {
		b.WriteString("\nKeys (kid, kind, algorithm, use, thumbprint)\n\n")
		for _, k := range r.Keys {
			fmt.Fprintf(&b, "  %s\n", k)
		}
	}
	r.writeFindings(&b, "Problems: tokens of this issuer would be refused", true)
	r.writeFindings(&b, "To know", false)
	if r.Usable() {
		b.WriteString("\nFor the configuration (then run mayfly config check)\n\n")
		r.Entry.write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) writeFindings(b *strings.Builder, title string, fatal bool) {
	first := true
	for _, f := range r.Findings {
		if f.Fatal != fatal {
			continue
		}
		if first {
			fmt.Fprintf(b, "\n%s\n\n", title)
			first = false
		}
		fmt.Fprintf(b, "  - %s.\n    What to do: %s.\n", f.What, f.Do)
	}
}
