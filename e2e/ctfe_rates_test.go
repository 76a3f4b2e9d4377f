//go:build full

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestCTFERates measures the log in the box and CTFE in one run, and leaves the
// table in the file that run.sh names. Every SCT is verified; how many there are
// is for the reader.
func TestCTFERates(t *testing.T) {
	c, p := newCTFE(t), newPKI(t)
	c.start(t, p.file(rootFile))
	dir := t.TempDir()
	key := filepath.Join(dir, "corp.key")
	run := command{dir: dir}
	run.must(t, "openssl", "pkey", "-in", p.file("corp.key"), "-passin", "file:"+p.file("passphrase"), "-out", key)
	table := run.must(t, program(t, "E2E_RATES"), "-chain", p.file(chainFile), "-key", key, "-dir", dir, "-remote", "ctfe="+c.url+","+c.publicKey)
	if n := strings.Count(table, "ctfe"); n != 3 {
		t.Errorf("the table has %d lines for CTFE, want 3", n)
	}
	t.Log("\n" + table)
	writeFile(t, program(t, "E2E_RATES_TABLE"), table)
}
