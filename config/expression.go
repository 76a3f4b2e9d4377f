package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// parseExpression reads the text of a CEL expression. What it says is checked by
// package policy; how it stands in the file is checked here: a line break may be
// in it, and nothing that the reader of the file does not see.
func parseExpression(text, tag string, v reflect.Value) error {
	if tag != "!!str" {
		return fmt.Errorf("an expression belongs here, but YAML reads this as another type (%s); put it in quotes", strings.TrimPrefix(tag, "!!"))
	}
	// YAML leaves line breaks at the end of a text that starts with | or >.
	text = strings.TrimRight(text, "\n")
	switch {
	case strings.TrimSpace(text) == "":
		return errors.New("the expression is empty; write one, or remove the key")
	case len(text) > maxString:
		return fmt.Errorf("the expression is longer than %d bytes; shorten it", maxString)
	case strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }):
		return errors.New("the expression contains a tab, control or invisible character; remove it")
	case hasComment(text):
		return errors.New("a // comment is not accepted: in a folded text it would hide the conditions after it; write # comments, outside of the expression")
	}
	v.SetString(text)
	return nil
}

// hasComment reports that an expression has a comment. It knows as much of CEL as
// it takes to tell the // of a comment from that of a URL in a string: strings
// are in one or three quotes of a kind, and a backslash keeps the next character
// from ending one unless an r stands before the quotes.
func hasComment(text string) bool {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case strings.HasPrefix(text[i:], "//"):
			return true
		case c == '"' || c == '\'':
			quote := string(c)
			if triple := strings.Repeat(quote, 3); strings.HasPrefix(text[i:], triple) {
				quote = triple
			}
			i += stringLength(text[i:], quote, isRaw(text[:i])) - 1
		}
	}
	return false
}

// stringLength is how long the string is with which text starts, quotes included;
// all of text when it does not end, which the compiler will complain about.
func stringLength(text, quote string, raw bool) int {
	for i := len(quote); i < len(text); i++ {
		switch {
		case text[i] == '\\' && !raw:
			i++
		case strings.HasPrefix(text[i:], quote):
			return i + len(quote)
		}
	}
	return len(text)
}

// isRaw reports that the quotes after before start a raw string: with r, or br for
// bytes, in any case, that are not the end of a longer name.
func isRaw(before string) bool {
	prefix := before[len(strings.TrimRightFunc(before, func(r rune) bool {
		return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)
	})):]
	switch strings.ToLower(prefix) {
	case "r", "br":
		return true
	}
	return false
}
