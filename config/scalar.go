package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// A scalarParser sets v from text. The tag is what YAML takes the text for; it
// is empty for variables and flags.
type scalarParser func(text, tag string, v reflect.Value) error

// parserOf returns the parser for scalars of type t, or nil.
func parserOf(t reflect.Type) scalarParser {
	switch t {
	case reflect.TypeFor[string]():
		return parseString
	case reflect.TypeFor[bool]():
		return parseBool
	case reflect.TypeFor[int]():
		return parseCount
	case reflect.TypeFor[time.Duration]():
		return parseDuration
	case reflect.TypeFor[time.Time]():
		return parseTime
	case reflect.TypeFor[netip.Prefix]():
		return parsePrefix
	case reflect.TypeFor[Rate]():
		return func(text, _ string, v reflect.Value) error { return set(v, text, ParseRate) }
	case reflect.TypeFor[Size]():
		return func(text, _ string, v reflect.Value) error { return set(v, text, ParseSize) }
	}
	return nil
}

func set[T any](v reflect.Value, text string, parse func(string) (T, error)) error {
	x, err := parse(text)
	if err != nil {
		return err
	}
	v.Set(reflect.ValueOf(x))
	return nil
}

// maxString bounds one value; it is as long as Linux lets a path be.
const maxString = 4096

func parseString(text, tag string, v reflect.Value) error {
	if tag != "" && tag != "!!str" {
		return fmt.Errorf("text belongs here, but YAML reads this as another type (%s); put it in quotes", strings.TrimPrefix(tag, "!!"))
	}
	if len(text) > maxString {
		return fmt.Errorf("the text is longer than %d bytes; shorten it", maxString)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("the text contains a control or invisible character; remove it")
	}
	v.SetString(text)
	return nil
}

func parseBool(text, tag string, v reflect.Value) error {
	if (text != "true" && text != "false") || tag == "!!str" {
		return errors.New("write true or false, without quotes")
	}
	v.SetBool(text == "true")
	return nil
}

func parseCount(text, tag string, v reflect.Value) error {
	n, err := parseInt(text)
	if err != nil || tag == "!!str" {
		return errors.New("write a whole number in decimal digits, without quotes")
	}
	v.SetInt(int64(n))
	return nil
}

// parseDuration demands a unit even for zero, which time.ParseDuration does not.
func parseDuration(text, _ string, v reflect.Value) error {
	if !strings.ContainsFunc(text, unicode.IsLetter) {
		return errors.New("a number without a unit; write a duration such as 30s, 10m or 24h")
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("write a duration such as 30s, 10m or 24h (units: ms, s, m, h)")
	}
	v.SetInt(int64(d))
	return nil
}

func parseTime(text, _ string, v reflect.Value) error {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return errors.New("write date, time and zone as in 2026-11-01T00:00:00Z (RFC 3339)")
	}
	if t = t.UTC(); t.Year() < 2000 || t.Year() > 9998 {
		return fmt.Errorf("the year %d cannot be meant; correct it", t.Year())
	}
	v.Set(reflect.ValueOf(t))
	return nil
}

// parsePrefix reads a CIDR prefix or a single address.
func parsePrefix(text, _ string, v reflect.Value) error {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return errors.New("write an address such as 10.0.0.7, or a network such as 10.0.0.0/24")
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case p.Addr().Is4In6():
		return errors.New("write the IPv4 address without the ::ffff: in front of it")
	case p != p.Masked():
		return fmt.Errorf("the address has bits outside its network; write %v for the network or %v for the one address", p.Masked(), p.Addr())
	}
	v.Set(reflect.ValueOf(p))
	return nil
}

func indexOf(keys []string, key string) int { return slices.Index(keys, key) }

// unknownKey says what to do about a key that the schema does not have.
func unknownKey(k *yaml.Node, keys []string) string {
	if k.Kind == yaml.ScalarNode {
		if near := nearest(k.Value, keys); near != "" {
			return fmt.Sprintf("unknown key; did you mean %s?", near)
		}
	}
	return "unknown key; remove it, or use one of " + strings.Join(keys, ", ")
}

// nearest is the candidate that word was probably meant to be, or empty.
func nearest(word string, candidates []string) string {
	best, least := "", len(word)/3+1
	if len(word) > 64 {
		return "" // no key is as long, and the distance costs the product
	}
	for _, c := range candidates {
		folded := strings.ReplaceAll(strings.ToLower(word), "-", "_")
		if len(word) >= 4 && strings.HasPrefix(c, folded) {
			return c
		}
		if n := distance(folded, c); n < least || (n == least && best == "" && n <= 1) {
			best, least = c, n
		}
	}
	return best
}

// distance is how many single-byte insertions, deletions, replacements and swaps
// of neighbours turn a into b.
func distance(a, b string) int {
	before, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
