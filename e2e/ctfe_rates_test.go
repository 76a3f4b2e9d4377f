//go:build full

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestCTFERates measures the log in the box, the same log in a process of its own
// and CTFE in one run, and leaves the
// table in the file that run.sh names. Every SCT is verified; how many there are
// is for the reader.
func TestCTFERates(t *testing.T) {
	c, p := newCTFE(t), newPKI(t)
	c.start(t, p.file(rootFile))
	l, dir := newLogServer(t, p), t.TempDir()
	l.replace(t, "per_client: 60000/min", "per_client: 1000000/s")
	l.serve(t, (&world{pki: p}).client(t))
	l.admit(t, dir)
	key := filepath.Join(dir, "corp.key")
	run := command{dir: dir}
	run.must(t, "openssl", "pkey", "-in", p.file("corp.key"), "-passin", "file:"+p.file("passphrase"), "-out", key)
	table := run.must(t, program(t, "E2E_RATES"), "-chain", p.file(chainFile), "-key", key, "-dir", dir,
		"-remote", strings.Join([]string{"serve=" + l.submit, l.publicKey, p.file(rootFile), filepath.Join(dir, "replica.crt"), filepath.Join(dir, "replica.key")}, ","),
		"-remote", "ctfe="+c.url+","+c.publicKey)
	for _, log := range []string{"embedded ", "serve ", "ctfe "} {
		if n := strings.Count(table, log); n != 3 {
			t.Errorf("the table has %d lines for %s, want 3", n, log)
		}
	}
	t.Log("\n" + table)
	writeFile(t, program(t, "E2E_RATES_TABLE"), table)
}
