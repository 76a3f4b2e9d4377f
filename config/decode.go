package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds the configuration file. It bounds everything made from it too,
// because nothing in the file can refer to anything else in it.
const maxFile = 1 << 20

// maxDepth bounds the nesting that is looked at; the schema needs less.
const maxDepth = 16

// decoder fills the schema from a tree of YAML nodes. A tree, and not the
// library's own decoding into structs: that stops early, converts (1 to "1"),
// expands aliases and forgets where a value stood.
type decoder struct {
	file     *File
	base     string // relative paths are relative to it
	problems Problems
	reported map[place]bool
}

type place struct {
	line int
	path string
}

// fail records a problem. The first one at a place is the cause; what follows
// there are its echoes.
func (d *decoder) fail(line int, path, format string, args ...any) {
	at := place{line, path}
	if line > 0 && d.reported[at] {
		return
	}
	d.reported[at] = true
	d.problems = append(d.problems, Problem{File: d.file.Path, Line: line, Path: path, Message: fmt.Sprintf(format, args...)})
}

// document decodes the whole file. It returns false when there is nothing in it
// that could be checked any further.
func (d *decoder) document(text []byte) bool {
	if len(text) > maxFile {
		d.fail(0, "", "the file is larger than %d bytes; remove what does not belong into it", maxFile)
		return false
	}
	if i := invalidUTF8(text); i >= 0 {
		d.fail(1+bytes.Count(text[:i], []byte("\n")), "", "byte 0x%02x is not UTF-8; save the file as UTF-8", text[i])
		return false
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.fail(1, "", "the file is empty; start from deploy/examples/file-ca/mayfly.yaml")
		return false
	case err != nil:
		d.syntax(err)
		return false
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		d.fail(second.Line, "", "a second document starts here; keep one and remove the --- between them")
	case !errors.Is(err, io.EOF):
		d.syntax(err)
	}
	root := doc.Content[0]
	d.refuseIndirection(root, "", 0)
	d.value(root, reflect.ValueOf(&d.file.Config).Elem(), "", "")
	return root.Kind == yaml.MappingNode
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// syntax reports an error of the YAML parser, which tells the line only in its
// text, and sometimes the one before it.
func (d *decoder) syntax(err error) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(message, "line %d: ", &line); n == 1 {
		_, message, _ = strings.Cut(message, ": ")
	}
	d.fail(line, "", "not valid YAML at or after this line, correct it: %s", message)
}

// refuseIndirection refuses anchors, aliases, merge keys and explicit tags: a
// reviewer must see the value where it applies, and an alias of aliases grows
// without bound.
func (d *decoder) refuseIndirection(n *yaml.Node, path string, depth int) {
	switch {
	case depth > maxDepth:
		d.fail(n.Line, path, "nested too deeply; no key is more than %d levels deep", maxDepth)
		return
	case n.Kind == yaml.AliasNode:
		d.fail(n.Line, path, "aliases are not accepted; write the value out instead of *%s", clip(n.Value))
		return
	case n.Anchor != "":
		d.fail(n.Line, path, "anchors are not accepted; remove &%s and write the value out where it is used", clip(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n.Line, path, "tags are not accepted; remove %s", clip(n.Tag))
	}
	for i, c := range n.Content {
		switch {
		case n.Kind == yaml.SequenceNode:
			d.refuseIndirection(c, index(path, i), depth+1)
		case i%2 == 1:
			d.refuseIndirection(c, join(path, keyText(n.Content[i-1])), depth+1)
		default:
			d.refuseIndirection(c, path, depth+1)
		}
	}
}

// value decodes n into v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path, tag string) {
	if _, ok := d.file.lines[path]; !ok && path != "" {
		d.file.lines[path] = n.Line
	}
	line := d.file.lines[path]
	if n.Kind == yaml.AliasNode {
		return // refuseIndirection reported it
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.fail(line, path, "there is no value; write one, or remove the key")
		return
	}
	switch {
	case v.Type() == logsType:
		d.logs(n, v, path)
	case isScalar(v.Type()):
		if n.Kind != yaml.ScalarNode {
			d.fail(line, path, "a single value belongs here, not %s", kindName(n))
			return
		}
		if err := d.scalar(n.Value, n.ShortTag(), v, tag); err != nil {
			d.fail(line, path, "%v", err)
		}
	case v.Kind() == reflect.Pointer:
		v.Set(newValue(v.Type().Elem()))
		d.value(n, v.Elem(), path, tag)
	case v.Kind() == reflect.Slice:
		d.list(n, v, path, tag)
	default:
		d.mapping(n, v, path)
	}
}

// scalar parses text into v. An empty yamlTag stands for a variable or flag,
// whose text has no type of its own.
func (d *decoder) scalar(text, yamlTag string, v reflect.Value, tag string) error {
	if tag == tagExpression {
		return parseExpression(text, yamlTag, v)
	}
	if err := parserOf(v.Type())(text, yamlTag, v); err != nil {
		return err
	}
	if tag != tagFile && tag != tagPath || text == "" {
		return nil
	}
	if !filepath.IsAbs(text) {
		text = filepath.Join(d.base, text)
	}
	v.SetString(filepath.Clean(text))
	return nil
}

func (d *decoder) logs(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.SequenceNode {
		d.list(n, v.FieldByName("List"), path, "")
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && n.Value == logsDisabled {
		v.FieldByName("Disabled").SetBool(true)
		return
	}
	d.fail(d.file.lines[path], path, "write a list of logs, or the word %s", logsDisabled)
}

// list decodes a sequence. An entry that cannot be decoded keeps its place, so
// that the indexes of the others stay right.
func (d *decoder) list(n *yaml.Node, v reflect.Value, path, tag string) {
	if n.Kind != yaml.SequenceNode {
		d.fail(d.file.lines[path], path, "a list belongs here, not %s; write it as [one, two], or one entry to a line after a dash", kindName(n))
		return
	}
	v.SetZero()
	for i, c := range n.Content {
		e := newValue(v.Type().Elem())
		d.value(c, e.Elem(), index(path, i), tag)
		v.Set(reflect.Append(v, e.Elem()))
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	keys := keysOf(v.Type())
	if n.Kind != yaml.MappingNode {
		line := n.Line
		if path != "" {
			line = d.file.lines[path]
		}
		d.fail(line, path, "keys belong here, not %s; the keys are %s", kindName(n), strings.Join(keys, ", "))
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		p := join(path, keyText(k))
		at := -1
		if k.Kind == yaml.ScalarNode && k.ShortTag() == "!!str" {
			at = indexOf(keys, k.Value)
		}
		switch {
		case at < 0:
			d.fail(k.Line, p, "%s", unknownKey(k, keys))
		case seen[k.Value] > 0:
			d.fail(k.Line, p, "the key was given before, in line %d; keep one of them", seen[k.Value])
		default:
			seen[k.Value] = k.Line
			d.file.lines[p] = k.Line
			d.value(c, v.Field(at), p, v.Type().Field(at).Tag.Get("config"))
		}
	}
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// keyText is a key as it stands in a key path, quoted when it could be mistaken
// for more than one key.
func keyText(k *yaml.Node) string {
	switch {
	case k.Kind != yaml.ScalarNode:
		return "?"
	case plainKey.MatchString(k.Value):
		return clip(k.Value)
	}
	return fmt.Sprintf("%q", clip(k.Value))
}

// clip bounds text taken from the file into a message or key path.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "keys and values"
	}
	return "a single value"
}
