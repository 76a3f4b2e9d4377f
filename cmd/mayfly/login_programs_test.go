package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/mayfly-dev/provider"
)

// demoProvider is a program for scripts: the demo OpenID provider, on a port
// that it prints.
func demoProvider() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	issuer, serve, err := newDemoProvider(ctx)
	if err == nil {
		fmt.Printf("issuer %s\n", issuer)
		err = serve()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// newDemoProvider listens, and returns what serves until ctx ends.
func newDemoProvider(ctx context.Context) (issuer string, serve func() error, err error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	issuer = "http://" + ln.Addr().String()
	p, err := provider.New(provider.Config{Issuer: issuer})
	if err != nil {
		return "", nil, errors.Join(err, ln.Close())
	}
	server := &http.Server{Handler: p.Handler(), ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return issuer, func() error {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, nil
}

// startDemoProvider runs the provider for a test.
func startDemoProvider(t testing.TB) (issuer string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	issuer, serve, err := newDemoProvider(ctx)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- serve() }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("demo provider: %v", err)
		}
	})
	return issuer
}

// browser is a program for scripts: it opens an address, and where it finds the
// demo provider's login page, logs in as Alice.
func browser() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := signInAt(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var (
	formAction = regexp.MustCompile(`<form id="sign-in" method="post" action="([^"]*)"`)
	formInput  = regexp.MustCompile(`<input[^>]* name="([^"]*)"[^>]* value="([^"]*)"`)
)

func signInAt(ctx context.Context, address string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	client := &http.Client{Jar: jar, Timeout: time.Minute}
	page, at, err := open(ctx, client, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	action := formAction.FindStringSubmatch(page)
	if action == nil {
		return fmt.Errorf("no login page: %s", page)
	}
	form := url.Values{}
	for _, input := range formInput.FindAllStringSubmatch(page, -1) {
		form.Set(input[1], input[2])
	}
	form.Set("email", "alice@demo.mayfly.test")
	form.Set("password", "mayfly")
	target, err := at.Parse(action[1])
	if err != nil {
		return err
	}
	_, _, err = open(ctx, client, http.MethodPost, target.String(), form)
	return err
}

// open returns a page and where redirects have led to.
func open(ctx context.Context, client *http.Client, method, address string, form url.Values) (string, *url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if form != nil {
		req, err = http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
	}
	if err != nil {
		return "", nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: status %d", method, address, resp.StatusCode)
	}
	return string(body), resp.Request.URL, err
}

// lines hands on what is written, line by line, and never blocks.
type lines struct {
	pipe *io.PipeWriter
	c    chan string
}

func newLines() lines {
	r, w := io.Pipe()
	l := lines{pipe: w, c: make(chan string, 1000)}
	go func() {
		defer close(l.c)
		for s := bufio.NewScanner(r); s.Scan(); {
			l.c <- s.Text()
		}
	}()
	return l
}
