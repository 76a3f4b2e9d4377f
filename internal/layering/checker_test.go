package layering

import (
	"slices"
	"strings"
	"testing"
)

// pkg is a package of ours in a synthetic graph.
func pkg(name string, imports ...string) listed {
	return listed{ImportPath: module + name, Name: name[strings.LastIndexByte(name, '/')+1:], Imports: imports}
}

func own(name string) string { return module + name }

var fewStandard = standardNames([]string{"context", "crypto/rand", "math/rand/v2", "log", "internal/poll", "text/template"})

func TestCheckerAcceptsTheDesign(t *testing.T) {
	graph := []listed{
		pkg("ca", "crypto/x509", "golang.org/x/crypto/cryptobyte"),
		pkg("oidc", own("ca"), "github.com/coreos/go-oidc/v3/oidc"),
		pkg("ctlog"), pkg("ctlog/embedded", own("ctlog"), "github.com/transparency-dev/tessera/storage/posix"),
		pkg("hsm"), pkg("hsm/pkcs11", own("hsm"), "github.com/miekg/pkcs11"),
		pkg("config", "github.com/spf13/viper"),
		pkg("internal/server", own("ca"), own("proto/dev/sigstore/fulcio/v2")),
		pkg("internal/audit", own("ca")), pkg("internal/policy", own("ca")),
		pkg("cmd/internal/stack", own("ca"), own("oidc"), own("ctlog/embedded")),
		{
			ImportPath: own("cmd/mayfly"), Name: "main", Imports: []string{own("cmd/internal/stack")},
			Deps: []string{own("cmd/internal/stack"), "github.com/spf13/viper", "html/template", "text/template"},
		},
		{
			ImportPath: own("cmd/mayfly-dev"), Name: "main", Imports: []string{own("cmd/mayfly-dev/provider")},
			Deps: []string{"github.com/zitadel/oidc/v3/pkg/op"},
		},
		pkg("cmd/mayfly-dev/provider", "github.com/zitadel/oidc/v3/pkg/op", "html/template"),
		{ImportPath: "golang.org/x/text/internal/utils", Name: "utils", Imports: []string{"text/template"}},
	}
	if wrong := checkGraph(graph, fewStandard); len(wrong) != 0 {
		t.Errorf("the design's own graph: got %q, want no findings", wrong)
	}
}

func TestCheckerFindsBrokenLayers(t *testing.T) {
	for _, c := range []struct {
		broken listed
		want   string
	}{
		{pkg("ca", own("oidc")), "ca imports oidc"},
		{pkg("ca", own("cmd/mayfly")), "ca imports cmd/mayfly"},
		{pkg("ctlog", own("ca")), "ctlog imports ca"},
		{pkg("ctlog/embedded", own("ca")), "ctlog/embedded imports ca"},
		{pkg("hsm", own("ca")), "hsm imports ca"},
		{pkg("hsm", own("hsm/pkcs11")), "hsm imports hsm/pkcs11"},
		{pkg("config", own("ca")), "config imports ca"},
		{pkg("oidc", own("config")), "oidc imports config"},
		{pkg("internal/server", own("oidc")), "internal/server imports oidc"},
		{pkg("internal/policy", own("internal/audit")), "internal/policy imports internal/audit"},
		{pkg("internal/audit", own("cmd/internal/stack")), "internal/audit imports cmd/internal/stack"},
		{pkg("internal/novelty"), "internal/novelty has no row"},
		{pkg("ca", "github.com/coreos/go-oidc/v3/oidc"), "which oidc may"},
		{pkg("internal/server", "github.com/coreos/go-oidc/v3/oidc"), "which oidc may"},
		{pkg("cmd/internal/stack", "github.com/spf13/viper"), "which config may"},
		{pkg("hsm", "github.com/miekg/pkcs11"), "which hsm/pkcs11/... may"},
		{pkg("ctlog", "github.com/transparency-dev/tessera"), "which ctlog/embedded may"},
		{pkg("oidc", "github.com/zitadel/oidc/v3/pkg/op"), "which cmd/mayfly-dev/... may"},
		{pkg("cmd/internal/stack", "text/template"), "which nobody may"},
		{pkg("hsm/pkcs11", "github.com/ThalesGroup/crypto11"), "which nobody may"},
		{listed{ImportPath: own("cmd/mayfly"), Name: "main", Deps: []string{"github.com/zitadel/schema"}}, "cmd/mayfly links github.com/zitadel/schema"},
		{listed{ImportPath: own("cmd/mayfly"), Name: "main", Deps: []string{own("cmd/mayfly-dev/provider")}}, "cmd/mayfly links"},
		{listed{ImportPath: own("cmd/mayfly"), Name: "main", Deps: []string{"testing"}}, "cmd/mayfly links testing"},
		{pkg("oidc/util"), "oidc/util is named util"},
		{pkg("internal/server/common"), "internal/server/common is named common"},
		{pkg("ca/types"), "ca/types is named types"},
		{listed{ImportPath: own("ca/model"), Name: "ok"}, "ca/model is named model"},
		{pkg("internal/server/log"), "as a package of the standard library is"},
		{pkg("ca/rand"), "as a package of the standard library is"},
		{listed{ImportPath: own("ca/random"), Name: "rand"}, "as a package of the standard library is"},
	} {
		wrong := checkGraph([]listed{c.broken}, fewStandard)
		if !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, c.want) }) {
			t.Errorf("%s importing %v, linking %v: got %q, want a finding with %q",
				c.broken.ImportPath, c.broken.Imports, c.broken.Deps, wrong, c.want)
		}
	}
}

func TestCheckerReadsSource(t *testing.T) {
	const head = "package x\nimport (\n\"testing\"\n\"golang.org/x/crypto/cryptobyte\"\n)\n"
	for _, c := range []struct{ name, src, want string }{
		{"skip", head + "func TestX(t *testing.T) { t.Skip() }", ":6 skips a test"},
		{"skip with a reason", head + "func FuzzX(f *testing.F) { f.Skipf(\"no\") }", "skips a test"},
		{"skip in a closure", head + "func BenchmarkX(b *testing.B) { func() { b.SkipNow() }() }", "skips a test"},
		{"skip in a helper", head + "func need(tb testing.TB) { tb.Skip(1) }", "skips a test"},
		{"skip of bytes", head + "func f(s cryptobyte.String) { s.Skip(1) }", ""},
		{"short", head + strings.Repeat("//\n", maxLines-6), ""},
		{"long", head + strings.Repeat("//\n", maxLines), "lines, more than"},
		{"long but generated", "// Code generated by hand. DO NOT EDIT.\n\npackage x\n" + strings.Repeat("//\n", maxLines), ""},
		{"broken", "package", "does not parse"},
	} {
		got := strings.Join(checkSource("x_test.go", []byte(c.src)), "; ")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want a finding with %q", c.name, got, c.want)
		}
	}
}
