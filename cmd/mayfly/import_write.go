package main

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/mayfly-ca/mayfly/config"
)

func writeHeader(b *strings.Builder, remarks []string) {
	comment(b, "", "Issuers of a Fulcio identity file, as `mayfly config import-fulcio` translated them. "+
		"Read all of it before it goes into a configuration; `mayfly config check` then checks it.")
	for _, text := range []string{
		"Fulcio gives a certificate to every valid token of an issuer, and so do these entries. Add conditions with rules and `when`.",
		"Mayfly also looks at azp: tokens that were made for another client than the audience need it under authorized_parties.",
		"Fulcio takes every signature algorithm that a provider announces. Mayfly takes those of the preset, without one RS256, or what algorithms lists.",
		"Mayfly writes mail addresses in lower case.",
	} {
		comment(b, "", "- "+text)
	}
	for _, r := range remarks {
		comment(b, "", "- "+r)
	}
}

// comment writes text as comments, broken at spaces. Nothing of the text can end
// the comment: it may come from the file.
func comment(b *strings.Builder, indent, text string) {
	const width = 100
	line := ""
	for word := range strings.FieldsSeq(visible(text)) {
		if line != "" && len(indent)+len(line)+len(word) > width {
			fmt.Fprintf(b, "%s# %s\n", indent, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	fmt.Fprintf(b, "%s# %s\n", indent, line)
}

func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// quoted is a YAML string that is what it says to every reader.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

func (e *entry) write(b *strings.Builder) {
	if e.refused != "" {
		comment(b, "  ", fmt.Sprintf("TODO by you: %s was not imported: %s.", clipped(e.source.url), e.refused))
		return
	}
	fmt.Fprintf(b, "  - name: %s\n", e.name)
	e.remark(b, "    ")
	if e.preset != "" && e.preset != config.PresetGeneric {
		fmt.Fprintf(b, "    preset: %s\n", e.preset)
	}
	fmt.Fprintf(b, "    url: %s\n", quoted(e.source.url))
	if e.insecure {
		b.WriteString("    insecure_http: true\n")
	}
	fmt.Fprintf(b, "    audiences: [%s]\n", quoted(e.source.audience))
	if e.san != "" {
		fmt.Fprintf(b, "    allow: all\n    san: %s\n", e.san)
	}
	b.WriteString("    may_issue:\n")
	for _, l := range []struct {
		key  string
		list []string
	}{{"email_domains", e.may.EmailDomains}, {"username_domains", e.may.UsernameDomains}, {"uri_prefixes", e.may.URIPrefixes}} {
		for i, name := range l.list {
			if i == 0 {
				fmt.Fprintf(b, "      %s:\n", l.key)
			}
			fmt.Fprintf(b, "        - %s\n", quoted(name))
		}
	}
	e.writeRule(b)
}

func (e *entry) writeRule(b *strings.Builder) {
	if e.san != "" {
		return
	}
	fmt.Fprintf(b, "    rules:\n      - name: %s\n", e.rule.Name)
	if e.rule.When != "" {
		fmt.Fprintf(b, "        when: %s\n", quoted(e.rule.When))
	}
	fmt.Fprintf(b, "        san: %s\n", quoted(e.rule.SAN))
	for i, x := range e.rule.Extensions {
		if i == 0 {
			b.WriteString("        extensions:\n")
		}
		fmt.Fprintf(b, "          - {name: %s, value: %s}\n", x.Name, quoted(x.Value))
	}
}

// remark writes what is to be done and to be known about an entry.
func (e *entry) remark(b *strings.Builder, indent string) {
	for _, t := range e.todos {
		comment(b, indent, "TODO by you: "+t)
	}
	for _, n := range e.notes {
		comment(b, indent, n)
	}
}

// writeWildcard tells about a meta issuer and shows what an entry for one of its
// issuers looks like, all of it in comments.
func (e *entry) writeWildcard(b *strings.Builder) {
	comment(b, "  ", fmt.Sprintf("TODO by you: Fulcio takes every issuer that matches %s (type %s, audience %s). "+
		"Mayfly takes an issuer by its name only. Write an entry for each one that you use:",
		clipped(e.source.key), clipped(e.source.kind), clipped(e.source.audience)))
	var shown strings.Builder
	e.write(&shown)
	for line := range strings.Lines(shown.String()) {
		b.WriteString("  # " + line)
	}
}
