// Package scripttest runs the scripts that say what the built programs do. A
// script is a testscript: its comments tell the story, its lines are what an
// administrator would type. The comment on commands lists what is added to
// testscript's own.
//
// Every wait is bounded and polls for the thing itself; nothing sleeps. The
// certificates that scripts use are made on the spot, and nothing but loopback
// is ever dialled.
//
// It is for tests only.
package scripttest

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// bound is how long a command may wait for what it is about; a healthy program
// takes a small part of it even under the race detector on a busy machine.
const bound = 30 * time.Second

// deadline is for all scripts of a directory together. A program that should
// have refused may serve for ever instead; it is interrupted then, and its script
// fails where it stands.
const deadline = 4 * time.Minute

// Run runs every script in the directory. Programs maps further program names to
// their executables; those given to testscript.Main need no entry.
func Run(t *testing.T, dir string, programs map[string]string) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		Cmds:                commands(),
		Deadline:            time.Now().Add(deadline),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Values[processesKey{}] = make(map[string]*process)
			bin := filepath.Join(e.WorkDir, ".programs")
			if err := os.Mkdir(bin, 0o700); err != nil {
				return err
			}
			for name, file := range programs {
				if err := os.Symlink(file, filepath.Join(bin, name)); err != nil {
					return err
				}
			}
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			return nil
		},
	})
}

type command = func(ts *testscript.TestScript, neg bool, args []string)

// commands are what scripts may use besides testscript's own:
//
//	exits CODE PROGRAM ARG...   runs a program that must exit with this code
//	start NAME REGEXP PROGRAM ARG...
//	                            starts a program and waits until its output matches;
//	                            named groups become variables
//	end NAME SIGNAL CODE WITHIN
//	                            sends INT or TERM; the program must end with this code
//	                            in that time. Its output can then be matched
//	hang-up NAME REGEXP         sends a HUP signal and waits until the output of NAME,
//	                            from its start on, matches
//	get URL [CERTIFICATE]       prints the answer's status and body; with https, the
//	                            server must present exactly this certificate
//	await-certificate ADDRESS FILE
//	                            waits until the server presents this certificate
//	begin-request ADDRESS       sends a request that never ends
//	pki DIR [ORGANIZATION]      makes chain.pem (intermediate, root) and ca.key
//	server-pair NAME            makes NAME.crt and NAME.key for 127.0.0.1
//	digests DIR                 prints every file with its SHA-256
//	capture REGEXP              named groups in the last stdout become variables
//	replace FILE OLD NEW        replaces the one occurrence of OLD
//	drop-line FILE N            deletes line N, counted from the end when negative
//	drop-bytes FILE N           cuts N bytes off the end
func commands() map[string]command {
	cmds := map[string]command{
		"exits": exits, "start": start, "end": end, "hang-up": hangUp,
		"get": get, "await-certificate": awaitCertificate, "begin-request": beginRequest,
		"pki": pki, "server-pair": serverPair,
		"digests": digests, "capture": capture, "replace": replace, "drop-line": dropLine, "drop-bytes": dropBytes,
	}
	for name, f := range cmds {
		cmds[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			if neg {
				ts.Fatalf("%s cannot be negated", name)
			}
			f(ts, neg, args)
		}
	}
	return cmds
}

// want fails the script when a command was given too few or too many arguments.
func want(ts *testscript.TestScript, args []string, least, most int) {
	if len(args) < least || len(args) > most {
		ts.Fatalf("got %d arguments %q, want %d to %d", len(args), args, least, most)
	}
}

func number(ts *testscript.TestScript, text string) int {
	n, err := strconv.Atoi(text)
	ts.Check(err)
	return n
}

// export sets the variables that the named groups of a match stand for, and
// reports whether there is a match.
func export(ts *testscript.TestScript, re *regexp.Regexp, text string) bool {
	m := re.FindStringSubmatch(text)
	for i, name := range re.SubexpNames() {
		if m != nil && name != "" {
			ts.Setenv(name, m[i])
		}
	}
	return m != nil
}
