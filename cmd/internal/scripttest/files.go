package scripttest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

func digests(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 1, 1)
	tree := os.DirFS(ts.MkAbs(args[0]))
	ts.Check(fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tree, name)
		fmt.Fprintf(ts.Stdout(), "%x  %s\n", sha256.Sum256(data), name)
		return err
	}))
}

func capture(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 1, 1)
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	if text := ts.ReadFile("stdout"); !export(ts, re, text) {
		ts.Fatalf("%s does not match\n%s", re, text)
	}
}

func replace(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 3, 3)
	text := ts.ReadFile(args[0])
	if n := strings.Count(text, args[1]); n != 1 {
		ts.Fatalf("%s holds %q %d times, not once", args[0], args[1], n)
	}
	write(ts, args[0], strings.Replace(text, args[1], args[2], 1))
}

func dropLine(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 2, 2)
	lines := slices.Collect(strings.Lines(ts.ReadFile(args[0])))
	i := number(ts, args[1]) - 1
	if i < 0 {
		i += len(lines) + 1
	}
	if i < 0 || i >= len(lines) {
		ts.Fatalf("%s has %d lines, and so no line %s", args[0], len(lines), args[1])
	}
	write(ts, args[0], strings.Join(slices.Delete(lines, i, i+1), ""))
}

func dropBytes(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 2, 2)
	text, n := ts.ReadFile(args[0]), number(ts, args[1])
	if n < 1 || n > len(text) {
		ts.Fatalf("%s has %d bytes; %d cannot be cut off", args[0], len(text), n)
	}
	write(ts, args[0], text[:len(text)-n])
}

func write(ts *testscript.TestScript, file, text string) {
	ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
}
