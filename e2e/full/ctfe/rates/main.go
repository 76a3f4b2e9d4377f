// Command rates measures how fast logs give SCTs: the log in the box and remote
// logs, one after the other on one machine in one run, so that their figures can
// be compared. TestCTFERates starts it.
//
// Each client waits for its SCT, which is verified, before it asks again. Every
// submission is a precertificate that no log has seen before; all are made before
// the clock starts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// levels are the numbers of clients.
var levels = []int{1, 16, 64}

type settings struct {
	chain, key string
	dir        string
	remotes    []ctlog.RemoteConfig
	span       time.Duration
	most       int
}

func main() {
	var s settings
	flag.StringVar(&s.chain, "chain", "", "PEM file: issuing certificate, root")
	flag.StringVar(&s.key, "key", "", "PEM file: PKCS#8 key of the issuing certificate, not encrypted")
	flag.StringVar(&s.dir, "dir", "", "empty directory, for the log in the box")
	flag.DurationVar(&s.span, "span", 3*time.Second, "how long each measurement takes at the most")
	flag.IntVar(&s.most, "most", 16384, "how many submissions each measurement makes at the most")
	flag.Func("remote", "NAME=URL,FILE[,CA,CERTIFICATE,KEY]: an RFC 6962 log, its public key, and what its TLS needs; repeatable", s.addRemote)
	flag.Parse()
	if err := run(context.Background(), os.Stdout, s); err != nil {
		fmt.Fprintln(os.Stderr, "rates:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func (s *settings) addRemote(value string) error {
	name, rest, ok := strings.Cut(value, "=")
	parts := strings.Split(rest, ",")
	if !ok || len(parts) != 2 && len(parts) != 5 {
		return errors.New("want NAME=URL,FILE or NAME=URL,FILE,CA,CERTIFICATE,KEY")
	}
	key, err := os.ReadFile(parts[1])
	if err != nil {
		return err
	}
	r := ctlog.RemoteConfig{Name: name, URL: parts[0], PublicKey: key}
	if len(parts) == 5 {
		if r.RootCAs, err = readPool(parts[2]); err != nil {
			return err
		}
		r.ClientCertFile, r.ClientKeyFile = parts[3], parts[4]
	}
	s.remotes = append(s.remotes, r)
	return nil
}

func run(ctx context.Context, out io.Writer, s settings) (err error) {
	ca, err := loadIssuer(s.chain, s.key)
	if err != nil {
		return err
	}
	logs, box, err := open(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, box.Close(ctx)) }()
	sync, err := syncCost(s.dir)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "One fdatasync takes %.2f ms on this disk, at the median.\n\n", milliseconds(sync)); err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "log\tclients\tSCTs/s\tp50 ms\tp99 ms\tSCTs\t\n")
	for _, clients := range levels {
		submissions, err := ca.precertificates(s.most)
		if err != nil {
			return err
		}
		for _, l := range logs {
			m, err := measure(ctx, l, submissions, clients, s.span)
			if err != nil {
				return fmt.Errorf("log %s, %d clients: %w", l.Name(), clients, err)
			}
			fmt.Fprintf(table, "%s\t%d\t%.0f\t%.2f\t%.2f\t%d\t\n", l.Name(), clients, m.rate, milliseconds(m.p50), milliseconds(m.p99), m.count)
		}
	}
	return table.Flush()
}

// open makes the log in the box and a client for each of the others.
func open(ctx context.Context, s settings) ([]ctlog.Log, *embedded.Log, error) {
	dir := filepath.Join(s.dir, "log")
	if _, err := embedded.Init(ctx, embedded.InitConfig{Dir: dir, Origin: "rates.invalid/log"}); err != nil {
		return nil, nil, err
	}
	box, err := embedded.Open(ctx, embedded.Config{Dir: dir, Name: "embedded"})
	if err != nil {
		return nil, nil, err
	}
	logs := []ctlog.Log{box}
	for _, c := range s.remotes {
		remote, err := ctlog.NewRemote(c)
		if err != nil {
			return nil, nil, errors.Join(err, box.Close(ctx))
		}
		logs = append(logs, remote)
	}
	return logs, box, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

type measurement struct {
	rate     float64 // SCTs a second
	p50, p99 time.Duration
	count    int
}

// measure has so many clients submit until the time is over or there is nothing
// left to submit.
func measure(ctx context.Context, l ctlog.Log, submissions []ctlog.Submission, clients int, span time.Duration) (measurement, error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	took, errs := make([][]time.Duration, clients), make([]error, clients)
	start := time.Now()
	for c := range clients {
		wg.Go(func() {
			for time.Since(start) < span {
				i := next.Add(1) - 1
				if i >= int64(len(submissions)) {
					return
				}
				begin := time.Now()
				if _, errs[c] = l.Submit(ctx, submissions[i]); errs[c] != nil {
					return
				}
				took[c] = append(took[c], time.Since(begin))
			}
		})
	}
	wg.Wait()
	all, elapsed := slices.Concat(took...), time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return measurement{}, err
	}
	slices.Sort(all)
	return measurement{float64(len(all)) / elapsed.Seconds(), all[len(all)/2], all[len(all)*99/100], len(all)}, nil
}

// syncCost is what writing a block into a file that has room for it, and a
// fdatasync, takes on this disk.
func syncCost(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "fdatasync"))
	if err != nil {
		return 0, err
	}
	const rounds, block = 200, 4096
	took := make([]time.Duration, rounds)
	_, err = f.Write(make([]byte, rounds*block))
	for i := range took {
		if err != nil {
			break
		}
		start := time.Now()
		if _, err = f.WriteAt(make([]byte, block), int64(i*block)); err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[rounds/2], errors.Join(err, f.Close())
}
