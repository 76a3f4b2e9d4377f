package config

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

const manual = "../docs/configuration.md"

// keys calls visit with every key of the schema, lists written as issuers[], and
// with the value that it has when the file does not say. Entries of lists are as
// if they had no key at all.
func keys(v reflect.Value, path string, visit func(path string, f reflect.StructField, v reflect.Value)) {
	t := v.Type()
	switch {
	case t == logsType:
		keys(v.FieldByName("List"), path, visit)
	case isScalar(t):
	case t.Kind() == reflect.Slice:
		if isScalar(t.Elem()) {
			return
		}
		keys(newValue(t.Elem()).Elem(), path+"[]", visit)
	case t.Kind() == reflect.Pointer:
		keys(newValue(t.Elem()).Elem(), path, visit)
	case t.Kind() == reflect.Struct:
		for f, fv := range v.Fields() {
			p := join(path, keyOf(f))
			visit(p, f, fv)
			keys(fv, p, visit)
		}
	}
}

func schema(visit func(path string, f reflect.StructField, v reflect.Value)) {
	var c Config
	c.setDefaults()
	keys(reflect.ValueOf(&c).Elem(), "", visit)
}

// rows reads the tables of the manual: key path to cells.
func rows(t testing.TB) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		key := strings.TrimSpace(cells[0])
		if len(cells) != 5 || !strings.HasPrefix(key, "`") {
			continue
		}
		for i, c := range cells {
			cells[i] = strings.TrimSpace(c)
		}
		key = strings.Trim(key, "`")
		if rows[key] != nil {
			t.Errorf("%s: %s has two rows, want one", manual, key)
		}
		rows[key] = cells
	}
	return rows
}

// defaultText is how the manual writes a default; empty for a zero value, of
// which the schema does not know whether it is required.
func defaultText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case bool:
		return fmt.Sprintf("`%v`", x)
	case time.Duration:
		return "`" + brief(x) + "`"
	case []string:
		if len(x) > 0 {
			return "`[" + strings.Join(x, ", ") + "]`"
		}
	case string, int, Rate, Size:
		if !v.IsZero() {
			return fmt.Sprintf("`%v`", x)
		}
	}
	return ""
}

func TestManualHasEveryKeyWithItsDefault(t *testing.T) {
	table := rows(t)
	schema(func(path string, f reflect.StructField, v reflect.Value) {
		row, ok := table[path]
		delete(table, path)
		if !ok {
			t.Errorf("%s: got no row for %s, want one", manual, path)
			return
		}
		want := defaultText(v)
		if f.Tag.Get("config") == tagPreset {
			want = "the preset's"
		}
		if want == "" && row[2] != "none" && row[2] != "required" && row[2] != "" || want != "" && row[2] != want {
			t.Errorf("%s: %s: got default %q, want %q", manual, path, row[2], want)
		}
		if row[1] == "" || row[4] == "" {
			t.Errorf("%s: %s: got type %q and meaning %q, want both", manual, path, row[1], row[4])
		}
	})
	for path := range table {
		t.Errorf("%s: got a row for %s, which the schema does not have", manual, path)
	}
}

// What the manual calls required must be required, and nothing else.
func TestManualSaysWhatIsRequired(t *testing.T) {
	path := write(t, `timestamp_authorities: [{}]
issuers: [{}, {rules: [{extensions: [{}], tests: [{}]}]}]
profiles: [{}]
authorities: [{}]
tokens: [{}]
chains: [{}]
logs: [{remote: {}}, {embedded: {submission: {}}}]
trusted_logs: [{}]
`)
	_, err := load(path, nil, now)
	required := map[string]bool{"issuers": true, "chains": true, "logs": true}
	ps, ok := errors.AsType[Problems](err)
	if !ok {
		t.Fatalf("got error %v, want Problems", err)
	}
	for _, p := range ps {
		if strings.HasPrefix(p.Message, "required") {
			required[strings.NewReplacer("[0]", "[]", "[1]", "[]").Replace(p.Path)] = true
		}
	}
	for key, row := range rows(t) {
		if (row[2] == "required") != required[key] {
			t.Errorf("%s: %s: got default %q, want it to be called required: %v", manual, key, row[2], required[key])
		}
	}
}

func TestManualListsVariablesAndFlags(t *testing.T) {
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Scalars() {
		row := fmt.Sprintf("| `%s` | `%s` | `--%s` |\n", s.Key, s.Variable, s.Flag)
		if !strings.Contains(string(text), row) {
			t.Errorf("%s: got no row %q, want one", manual, row)
		}
	}
}

// The examples of the manual make one configuration together.
func TestManualExamplesLoad(t *testing.T) {
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		all.WriteString(m[1])
	}
	mustLoad(t, write(t, all.String()), nil)
}

// The issuers that other pages show load too, each block for itself.
func TestIssuersInThePagesLoad(t *testing.T) {
	pages, err := filepath.Glob("../docs/presets/*.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for _, page := range append(pages, "../docs/policy.md", "../docs/tokens.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		before, after, _ := strings.Cut(minimal, "issuers:\n")
		_, after, _ = strings.Cut(after, "chains:\n")
		for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			if !strings.HasPrefix(m[1], "issuers:\n") {
				continue
			}
			blocks++
			if _, err := parse("/etc/mayfly/mayfly.yaml", []byte(before+m[1]+"chains:\n"+after), nil, now); err != nil {
				t.Errorf("%s: %v, from:\n%s", page, err, m[1])
			}
		}
	}
	if blocks < len(presets)-1 {
		t.Errorf("got %d blocks with issuers, want one for each preset at least", blocks)
	}
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Name.IsExported() {
					documented(t, name, n.Name.Name, n.Doc)
				}
				return false
			case *ast.GenDecl:
				for _, s := range n.Specs {
					if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() {
						documented(t, name, ts.Name.Name, n.Doc)
					}
				}
			case *ast.StructType:
				for _, field := range n.Fields.List {
					for _, id := range field.Names {
						if id.IsExported() {
							documented(t, name, id.Name, field.Doc)
						}
					}
				}
			}
			return true
		})
	}
}

// documented wants a sentence about name: its name first, a full stop last.
func documented(t *testing.T, file, name string, doc *ast.CommentGroup) {
	t.Helper()
	text := strings.TrimSpace(doc.Text())
	if !strings.HasPrefix(text, name+" ") || !strings.HasSuffix(text, ".") {
		t.Errorf("%s: %s: got doc comment %q, want a sentence that starts with the name", file, name, text)
	}
}
