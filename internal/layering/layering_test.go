// Package layering holds the tests that keep the tree in the shape that the
// design gives it: who may import whom, which package alone may touch which
// library, what a program may link, how packages are named, how long files grow.
//
// It looks at the graph of `go list -deps` for what is linked into the programs,
// and at the source for the rest. A package that the table below does not name
// is a finding: its place is decided here, not by accident. It says nothing about
// what tests import.
package layering

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

const module = "github.com/mayfly-ca/mayfly/"

// mayImport is the table of the design. A pattern that ends in /... stands for
// the directory and everything below it; the first match counts. "..." allows
// everything of ours.
var mayImport = []struct {
	importer string
	imports  []string
}{
	{"cmd/...", []string{"..."}},
	{"internal/server/...", []string{"internal/server/...", "proto/...", "ca"}},
	{"internal/audit/...", []string{"internal/audit/...", "ca"}},
	{"internal/auditor", []string{"internal/audit"}},
	{"internal/policy/...", []string{"internal/policy/...", "ca"}},
	{"internal/freeze", []string{"ca"}},
	{"internal/trust/...", []string{"internal/trust/...", "ca"}},
	{"internal/lint", []string{"ca"}},
	{"internal/login/...", []string{"internal/login/..."}},
	{"internal/probe/...", []string{"internal/probe/...", "internal/login/endpoint"}},
	{"internal/ceremony", []string{"ca", "hsm"}},
	{"internal/layering", nil},
	{"internal/fixedkey", nil},
	{"internal/floor", nil},
	{"oidc/...", []string{"oidc/...", "ca"}},
	{"ctlog/embedded/...", []string{"ctlog/embedded/...", "ctlog", "internal/fixedkey"}},
	{"ctlog/internal/...", []string{"ctlog/internal/...", "ctlog"}},
	{"ctlog/logtest", nil},
	{"ctlog", nil},
	{"hsm/pkcs11/...", []string{"hsm/pkcs11/...", "hsm"}},
	{"hsm/hsmtest", []string{"hsm"}},
	{"hsm", nil},
	{"ca/...", []string{"ca/...", "internal/fixedkey"}},
	{"config/...", []string{"config/..."}},
	{"proto/...", []string{"proto/..."}},
}

// soleImporters names, for a library, the only package that may import it: what
// we do not trust alone, or may want to replace, has one door.
var soleImporters = []struct{ library, importer, why string }{
	{"github.com/coreos/go-oidc", "oidc", "it accepts much that a CA must refuse"},
	{"github.com/spf13/viper", "config", "it is lenient where the configuration is strict"},
	{"cel.dev/cel-go", "internal/policy", "what rules may say is checked in one place"},
	{"github.com/miekg/pkcs11", "hsm/pkcs11/...", "it is cgo"},
	{"github.com/transparency-dev/tessera", "ctlog/embedded", "the log in the box is replaceable"},
	{"filippo.io/nistec", "internal/fixedkey", "it checks only what we have signed ourselves"},
	{"github.com/zitadel", "cmd/mayfly-dev/...", "it is for the demo"},
	{"text/template", "", "nothing near a certificate is made from text templates"},
	{"github.com/ThalesGroup/crypto11", "", "it returns broken sessions to its pool"},
}

// mustNotLink names what a program must not contain, however it got there.
var mustNotLink = []struct{ program, dependency string }{
	{"cmd/mayfly", "github.com/zitadel"},
	{"cmd/mayfly", module + "cmd/mayfly-dev"},
	{"cmd/mayfly", "github.com/ThalesGroup/crypto11"},
	{"cmd/mayfly", "testing"},
	{"cmd/mayfly-dev", "github.com/ThalesGroup/crypto11"},
}

// bannedNames say what a package contains and not what it provides.
var bannedNames = []string{
	"util", "utils", "common", "helper", "helpers", "types", "model", "models", "mock", "mocks", "base", "shared", "misc",
}

// listed is what `go list` says about a package.
type listed struct {
	ImportPath string
	Name       string
	Standard   bool
	Imports    []string
	Deps       []string
}

// ours returns the path inside the module.
func ours(importPath string) (string, bool) { return strings.CutPrefix(importPath, module) }

// checkGraph returns what is wrong with a graph of packages. standard holds the
// names of the standard library's packages.
func checkGraph(graph []listed, standard map[string]bool) []string {
	var wrong []string
	for _, p := range graph {
		name, ok := ours(p.ImportPath)
		if !ok {
			continue
		}
		wrong = slices.Concat(wrong, checkImports(name, p.Imports), checkLinks(name, p.Deps), checkName(name, p.Name, standard))
	}
	slices.Sort(wrong)
	return wrong
}

func checkImports(importer string, imports []string) (wrong []string) {
	row := slices.IndexFunc(mayImport, func(r struct {
		importer string
		imports  []string
	}) bool {
		return matches(r.importer, importer)
	})
	if row < 0 {
		return []string{importer + " has no row in the table of who may import whom"}
	}
	for _, imp := range imports {
		if name, ok := ours(imp); ok && !matchesAny(mayImport[row].imports, name) {
			wrong = append(wrong, fmt.Sprintf("%s imports %s", importer, name))
		}
		for _, r := range soleImporters {
			if below(r.library, imp) && !matches(r.importer, importer) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s, which %s may: %s", importer, imp, cmp.Or(r.importer, "nobody"), r.why))
			}
		}
	}
	return wrong
}

func checkLinks(program string, deps []string) (wrong []string) {
	for _, r := range mustNotLink {
		for _, dep := range deps {
			if r.program == program && below(r.dependency, dep) {
				wrong = append(wrong, fmt.Sprintf("%s links %s", program, dep))
			}
		}
	}
	return wrong
}

func checkName(importPath, name string, standard map[string]bool) (wrong []string) {
	for _, n := range slices.Compact([]string{name, path.Base(importPath)}) {
		if slices.Contains(bannedNames, n) {
			wrong = append(wrong, fmt.Sprintf("%s is named %s, which says nothing", importPath, n))
		}
		if n != "main" && standard[n] {
			wrong = append(wrong, fmt.Sprintf("%s is named %s, as a package of the standard library is", importPath, n))
		}
	}
	return wrong
}

// matches reports whether a path of ours is meant by a pattern of the tables.
func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return below(dir, name)
	}
	return pattern == name
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

// below reports whether a path is dir or inside it.
func below(dir, name string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// standardNames collects the names that a package of ours must not take.
func standardNames(paths []string) map[string]bool {
	names := make(map[string]bool)
	for _, p := range paths {
		parts := strings.Split(p, "/")
		if slices.Contains(parts, "internal") || slices.Contains(parts, "vendor") {
			continue
		}
		last := path.Base(p)
		if len(last) == 2 && last[0] == 'v' { // math/rand/v2 is called rand
			last = path.Base(path.Dir(p))
		}
		names[last] = true
	}
	return names
}
