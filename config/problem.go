package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// File is where the value came from: the configuration file, or the name of
	// the variable or flag that was laid over it.
	File string
	// Line is the line in File, from 1; 0 when there is none to point at.
	Line int
	// Path is the key path, such as issuers[1].audiences; empty for the file as a
	// whole.
	Path string
	// Message says what is wrong and what to do about it.
	Message string
}

// String is file:line: path: message, without the parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all that is wrong with a configuration, in the order of the file.
type Problems []Problem

// Error is one line per problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// sort orders by place. Problems without a line come first: they are about the
// file as a whole, or about variables and flags.
func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.File, b.File),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
}

// File is a configuration without problems, and where its values came from.
type File struct {
	Config
	// Path is the absolute path of the file.
	Path string
	// Digest is SHA-256 of the effective configuration: with defaults, variables
	// and flags. Comments and the order of keys do not change it. What a preset
	// says in place of the file is not in it; the digest of the policy has that.
	Digest [32]byte

	// lines maps a key path to the line of its key or list entry.
	lines map[string]int
	// origins maps a key path to the variable or flag that set it.
	origins map[string]string
}

// Line is the line at which a key path, or the nearest thing around it that the
// file does have, is written; 0 when there is none.
func (f *File) Line(keyPath string) int {
	for p := keyPath; p != ""; p = parent(p) {
		if line, ok := f.lines[p]; ok {
			return line
		}
	}
	return 0
}

// Problem points at the place of a key path, so that checks made elsewhere
// (does the key belong to the chain?) read like those made here.
func (f *File) Problem(keyPath, format string, args ...any) Problem {
	p := Problem{File: f.Path, Line: f.Line(keyPath), Path: keyPath, Message: fmt.Sprintf(format, args...)}
	if origin, ok := f.origins[keyPath]; ok {
		p.File, p.Line = origin, 0
	}
	return p
}

// Place says where a key path stands, for errors about it that are no Problem.
func (f *File) Place(keyPath string) string {
	return strings.TrimSuffix(f.Problem(keyPath, "").String(), ": ")
}

// parent cuts the last key or index off a key path.
func parent(keyPath string) string {
	return keyPath[:max(strings.LastIndexAny(keyPath, ".["), 0)]
}

// join appends a key to a key path.
func join(keyPath, key string) string {
	if keyPath == "" {
		return key
	}
	return keyPath + "." + key
}

// index appends a list index to a key path.
func index(keyPath string, i int) string { return fmt.Sprintf("%s[%d]", keyPath, i) }
