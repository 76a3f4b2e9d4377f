package scripttest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 2, math.MaxInt)
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != number(ts, args[0]) {
		ts.Fatalf("%s exited with %d, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}

type processesKey struct{}

// process is a program that a script has started.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *output
	// changed has a value after the program has printed something.
	changed <-chan struct{}
	// ended is closed when the program has ended.
	ended chan struct{}
}

// output collects what a program prints.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan<- struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default: // whoever waits has not looked yet and will see this too
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func start(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 3, math.MaxInt)
	re, err := regexp.Compile(`(?s)` + args[1])
	ts.Check(err)
	processes := ts.Value(processesKey{}).(map[string]*process) //nolint:errcheck // Run has set it
	if processes[args[0]] != nil {
		ts.Fatalf("%s is already running", args[0])
	}
	program, err := lookPath(ts, args[2])
	ts.Check(err)
	changed := make(chan struct{}, 1)
	p := &process{
		cmd:    exec.Command(program, args[3:]...), //nolint:gosec,noctx // the script says what to run; end or the cleanup below ends it
		stdout: &output{changed: changed}, stderr: &output{changed: changed}, changed: changed, ended: make(chan struct{}),
	}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = ts.MkAbs("."), p.stdout, p.stderr
	p.cmd.Env = append(environment(ts), "PWD="+p.cmd.Dir)
	ts.Check(p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // the state tells the code
		close(p.ended)
	}()
	processes[args[0]] = p
	ts.Defer(func() {
		_ = p.cmd.Process.Kill() // it has ended, as a rule
		<-p.ended
	})
	p.awaitOutput(ts, args[0], re)
}

func (p *process) awaitOutput(ts *testscript.TestScript, name string, re *regexp.Regexp) {
	timeout := time.NewTimer(bound)
	defer timeout.Stop()
	for !export(ts, re, p.stdout.String()) && !export(ts, re, p.stderr.String()) {
		select {
		case <-p.changed:
		case <-p.ended:
			ts.Fatalf("%s ended with code %d before it printed %s\n%s%s", name, p.cmd.ProcessState.ExitCode(), re, p.stdout, p.stderr)
		case <-timeout.C:
			ts.Fatalf("%s has not printed %s in %s\n%s%s", name, re, bound, p.stdout, p.stderr)
		}
	}
}

func hangUp(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 2, 2)
	re, err := regexp.Compile(`(?s)` + args[1])
	ts.Check(err)
	p := ts.Value(processesKey{}).(map[string]*process)[args[0]] //nolint:errcheck // Run has set it
	if p == nil {
		ts.Fatalf("%s was not started", args[0])
	}
	ts.Check(p.cmd.Process.Signal(syscall.SIGHUP))
	p.awaitOutput(ts, args[0], re)
}

func end(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 4, 4)
	signal, ok := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM}[args[1]]
	if !ok {
		ts.Fatalf("signal %q is neither INT nor TERM", args[1])
	}
	within, err := time.ParseDuration(args[3])
	ts.Check(err)
	processes := ts.Value(processesKey{}).(map[string]*process) //nolint:errcheck // Run has set it
	p := processes[args[0]]
	if p == nil {
		ts.Fatalf("%s was not started", args[0])
	}
	delete(processes, args[0])
	ts.Check(p.cmd.Process.Signal(signal))
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-p.ended:
	case <-timeout.C:
		ts.Fatalf("%s still runs %s after %s\n%s%s", args[0], within, args[1], p.stdout, p.stderr)
	}
	fmt.Fprint(ts.Stdout(), p.stdout)
	fmt.Fprint(ts.Stderr(), p.stderr)
	if code := p.cmd.ProcessState.ExitCode(); code != number(ts, args[2]) {
		ts.Fatalf("%s exited with %d after %s, want %s\n%s%s", args[0], code, args[1], args[2], p.stdout, p.stderr)
	}
}

// environment is the script's, of which testscript tells only single variables.
// The scripts need no others.
func environment(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "WORK"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// lookPath finds a program as the script's shell would: exec.LookPath knows only
// the test's own PATH.
func lookPath(ts *testscript.TestScript, name string) (string, error) {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is not on PATH %s", name, ts.Getenv("PATH"))
}
