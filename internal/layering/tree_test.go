package layering

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// goList runs `go list` at the root of the module.
func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	return out
}

func TestTreeKeepsItsLayers(t *testing.T) {
	var graph []listed
	dec := json.NewDecoder(bytes.NewReader(goList(t, "-deps", "-json=ImportPath,Name,Standard,Imports,Deps", "./...")))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("reading go list: %v", err)
		}
		graph = append(graph, p)
	}
	if !slices.ContainsFunc(graph, func(p listed) bool { return p.ImportPath == module+"ca" }) {
		t.Fatalf("%d packages listed and ca is not among them: the test looks at the wrong tree", len(graph))
	}
	standard := standardNames(strings.Fields(string(goList(t, "std"))))
	for _, wrong := range checkGraph(graph, standard) {
		t.Error(wrong)
	}
}

func TestSourceKeepsTheHouseRules(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "dist", "testdata", "node_modules", ".cache"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		files++
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		for _, wrong := range checkSource(rel, src) {
			t.Error(wrong)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("walking the tree: %v", err)
	}
	if files < 10 {
		t.Errorf("looked at %d Go files: the test looks at the wrong tree", files)
	}
}
