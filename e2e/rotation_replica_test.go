package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// replica is one of several services with the same files, each in a volume of
// its own, as a pod has it.
type replica struct {
	*world
	name   string
	volume volume
	flags  []string // what differs between replicas
}

// startReplica starts a service from a volume with files in it.
func startReplica(t testing.TB, org *world, name string, files map[string]string) *replica {
	t.Helper()
	port, metrics := freePort(t), freePort(t)
	r := &replica{name: name, volume: volume{dir: filepath.Join(t.TempDir(), "etc")}, world: &world{
		pki: org.pki, issuer: org.issuer, http: org.http, dir: org.dir, state: filepath.Join(t.TempDir(), "state"),
		url: fmt.Sprintf("https://127.0.0.1:%d", port), metrics: fmt.Sprintf("http://127.0.0.1:%d/metrics", metrics),
	}}
	r.volume.mount(t, files)
	r.config = filepath.Join(r.volume.dir, "mayfly.yaml")
	r.flags = []string{
		"--config", r.config, "--state", r.state,
		"--listen-address", fmt.Sprintf("127.0.0.1:%d", port), "--metrics", fmt.Sprintf("127.0.0.1:%d", metrics),
	}
	r.mayfly = startDaemon(t, r.dir, program(t, "E2E_MAYFLY"), append([]string{"serve"}, r.flags...)...)
	r.mayfly.await(t, "readiness", startTime, func() error {
		_, err := r.get("/readyz")
		return err
	})
	return r
}

// status is what mayfly ca status says about the running service.
func (r *replica) status(t testing.TB) string {
	t.Helper()
	return command{dir: r.dir}.must(t, program(t, "E2E_MAYFLY"), append([]string{"ca", "status", "--online"}, r.flags...)...)
}

// awaitStatus waits until the service says all of the words.
func (r *replica) awaitStatus(t testing.TB, bound time.Duration, words ...string) {
	t.Helper()
	r.mayfly.await(t, fmt.Sprintf("%q in the status of replica %s", words, r.name), bound, func() error {
		status := r.status(t)
		for _, w := range words {
			if !strings.Contains(status, w) {
				return fmt.Errorf("no %q in\n%s", w, status)
			}
		}
		return nil
	})
}

// checkReload demands what readiness and metrics say about the last reload. A
// replica that refused a file stays ready.
func (r *replica) checkReload(t testing.TB, ok bool) {
	t.Helper()
	if body, want := r.mustGet(t, "/readyz"), fmt.Sprintf(`"config":%t`, ok); !bytes.Contains(body, []byte(want)) {
		t.Errorf("replica %s: /readyz says %s, want %s", r.name, body, want)
	}
	want := "0"
	if ok {
		want = "1"
	}
	metrics, err := fetch(r.http, r.metrics)
	if err != nil {
		t.Fatal(err)
	}
	if got := regexp.MustCompile(`(?m)^mayfly_config_reload_last_ok (.*)$`).FindSubmatch(metrics); got == nil || string(got[1]) != want {
		t.Errorf("replica %s: mayfly_config_reload_last_ok is %q, want %s", r.name, got, want)
	}
}

// volume is a ConfigMap as a kubelet mounts it: names that link through ..data to
// a directory with a date for its name.
type volume struct {
	dir     string
	current string // what ..data leads to
}

// mount brings files into the volume in a kubelet's order: the new directory,
// ..data renamed over the one before, links for new names, and what was before
// removed. In between a file may name one that has no link yet.
func (v *volume) mount(t testing.TB, files map[string]string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(v.dir, 0o700))
	before := v.current
	fresh, err := os.MkdirTemp(v.dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	must(err)
	for name, text := range files {
		writeFile(t, filepath.Join(fresh, name), text)
	}
	v.current = filepath.Base(fresh)
	must(os.Symlink(v.current, filepath.Join(v.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")))
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.dir, name)); !os.IsExist(err) {
			must(err)
		}
	}
	if before == "" {
		return
	}
	old, err := os.ReadDir(filepath.Join(v.dir, before))
	must(err)
	for _, f := range old {
		if _, kept := files[f.Name()]; !kept {
			must(os.Remove(filepath.Join(v.dir, f.Name())))
		}
	}
	must(os.RemoveAll(filepath.Join(v.dir, before)))
}
