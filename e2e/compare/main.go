package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/report"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/site"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1) //nolint:forbidigo // only main exits, and this is it
	}
}

// options are the command line.
type options struct {
	mayfly, fulcio, rows, write, json, dir string
	round                                  time.Duration
	rounds                                 int
	quick                                  bool
	command                                string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.mayfly, "mayfly", "bin/mayfly", "the `program` mayfly")
	flags.StringVar(&o.fulcio, "fulcio", "", "the `program` fulcio; empty measures Mayfly alone")
	flags.StringVar(&o.rows, "rows", "", "a `regexp` that picks rows by name, \"flood\" among them; empty for all")
	flags.StringVar(&o.dir, "dir", "", "a `directory` on the disk that Mayfly is to write to; empty for that of temporary files")
	flags.DurationVar(&o.round, "round", 8*time.Second, "how long one measurement lasts")
	flags.IntVar(&o.rounds, "rounds", 2, "how many measurements there are of each kind")
	flags.StringVar(&o.write, "write", "", "put the tables into this `document`, between its markers")
	flags.StringVar(&o.json, "json", "", "write the results to this `file`")
	flags.BoolVar(&o.quick, "quick", false, "instead, two seconds of one row without Fulcio, as a smoke test")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.round < 100*time.Millisecond || o.rounds < 1 {
		return o, errors.New("see compare -help")
	}
	if o.quick {
		o.fulcio, o.rows, o.round, o.rounds = "", "^usual$", 2*time.Second, 1
	}
	var told []string
	flags.Visit(func(f *flag.Flag) {
		if !slices.Contains([]string{"mayfly", "fulcio", "write", "json"}, f.Name) {
			told = append(told, fmt.Sprintf("-%s=%s", f.Name, forMake(f.Value.String())))
		}
	})
	o.command = "make bench-compare"
	if len(told) > 0 {
		o.command += fmt.Sprintf(" COMPARE='%s'", strings.Join(told, " "))
	}
	return o, nil
}

// forMake writes a value as it has to stand in COMPARE='…': make reads it, and then
// the shell of its recipe.
func forMake(value string) string {
	if strings.ContainsAny(value, " |$^*+?()[]") {
		value = `"` + value + `"`
	}
	return strings.ReplaceAll(value, "$", "$$")
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if len(args) == 2 && args[0] == site.BackendCommand {
		return site.Backend(ctx, args[1])
	}
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	pick, err := regexp.Compile(o.rows)
	if err != nil {
		return fmt.Errorf("reading -rows: %w", err)
	}
	if o.write != "" {
		// A document that will not take the tables is better known before than after.
		if err := report.CheckDocument(o.write); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(o.dir, "mayfly-compare-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := newComparison(ctx, dir, o, stderr)
	if err != nil {
		return err
	}
	defer c.Close()
	disk, err := syncTimes(dir)
	if err != nil {
		return err
	}
	r := report.Report{Command: o.command, Versions: versions(ctx, c.Mayfly, c.Fulcio), Round: o.round, Rounds: o.rounds}
	r.Versions = append(r.Versions, report.Version{Name: "Disk", Is: disk})
	if err := c.measureAll(ctx, &r, pick); err != nil {
		// What was measured is shown, but is no document.
		o.write = ""
		return errors.Join(publish(r, o, stdout), err)
	}
	return publish(r, o, stdout)
}

// measureAll goes on after a row that failed, as long as it may: the others took
// twenty minutes.
func (c *comparison) measureAll(ctx context.Context, r *report.Report, pick *regexp.Regexp) error {
	var errs []error
	for _, row := range rows() {
		if !pick.MatchString(row.name) || ctx.Err() != nil {
			continue
		}
		measured, err := c.measure(ctx, row)
		if err != nil {
			c.say("%s: %v", row.name, err)
			errs = append(errs, fmt.Errorf("%s: %w", row.name, err))
			continue
		}
		r.Rows = append(r.Rows, measured)
	}
	if pick.MatchString("flood") && ctx.Err() == nil {
		var err error
		if r.Floods, err = c.floods(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// newComparison opens the site. Paths are made absolute: programs run in
// directories of their own.
func newComparison(ctx context.Context, dir string, o options, progress io.Writer) (*comparison, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	for _, path := range []*string{&o.mayfly, &o.fulcio} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, fmt.Errorf("finding a program: %w", err)
		}
		if _, err := os.Stat(*path); err != nil {
			return nil, fmt.Errorf("finding a program: %w", err)
		}
	}
	s, err := site.Open(ctx, dir, self)
	if err != nil {
		return nil, err
	}
	s.Mayfly, s.Fulcio = o.mayfly, o.fulcio
	return &comparison{
		Site: s, round: o.round, rounds: o.rounds, out: progress,
		cas: make(map[string]site.CA), keys: make(map[load.Kind][]crypto.Signer),
	}, nil
}

// publish writes the results to where they are wanted. Requests to Mayfly that
// failed are an error, after that.
func publish(r report.Report, o options, stdout io.Writer) error {
	if err := writeJSON(o.json, r); err != nil {
		return err
	}
	text := r.Markdown()
	fmt.Fprint(stdout, text)
	if o.write != "" {
		if err := report.WriteInto(o.write, text); err != nil {
			return err
		}
	}
	if r.Failed(mayfly) {
		return errors.New("requests to Mayfly failed")
	}
	return nil
}

func writeJSON(path string, v any) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the results: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil { //nolint:gosec // results for everybody
		return fmt.Errorf("writing the results: %w", err)
	}
	return nil
}
