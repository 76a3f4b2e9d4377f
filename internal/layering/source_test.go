package layering

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// maxLines is how long a file may grow before it is two rooms in one.
const maxLines = 500

// checkSource returns what is wrong with one Go file.
func checkSource(name string, src []byte) []string {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return []string{fmt.Sprintf("%s does not parse: %v", name, err)}
	}
	if ast.IsGenerated(file) {
		return nil
	}
	var wrong []string
	if n := strings.Count(string(src), "\n"); n > maxLines {
		wrong = append(wrong, fmt.Sprintf("%s has %d lines, more than %d", name, n, maxLines))
	}
	for _, pos := range skips(file) {
		wrong = append(wrong, fmt.Sprintf("%s:%d skips a test: a skipped test proves nothing", name, fset.Position(pos).Line))
	}
	return wrong
}

// skips finds the calls that skip a test. The receiver counts only when the file
// declares it as a parameter of a testing type: cryptobyte has a Skip too.
func skips(file *ast.File) (at []token.Pos) {
	tests := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		if f, ok := n.(*ast.Field); ok && isTesting(f.Type) {
			for _, name := range f.Names {
				tests[name.Name] = true
			}
		}
		return true
	})
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && tests[x.Name] {
			at = append(at, call.Pos())
		}
		return true
	})
	return at
}

// isTesting reports whether a type is *testing.T, *testing.B, *testing.F or
// testing.TB.
func isTesting(t ast.Expr) bool {
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	sel, ok := t.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "testing" && slices.Contains([]string{"T", "B", "F", "TB"}, sel.Sel.Name)
}
