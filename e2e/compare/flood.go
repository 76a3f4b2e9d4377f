package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/report"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/site"
)

// The flood has ten requests of junk for each honest one, from connections and
// addresses of its own.
const (
	junkFactor  = 10
	junkClients = 64
	junkBlock   = 2 // 127.0.2.0/24
)

// oversized is more than Mayfly reads. One request in oversizedEach has it: they
// are to cost the server, not the loopback device.
const (
	oversized     = 256 << 10
	oversizedEach = 20
)

// flooding is who floods, and what the server does about it.
type flooding struct {
	name string
	// addresses that the junk comes from.
	addresses int
	// perAddress is Mayfly's limit, out of the way if empty.
	perAddress string
	alone      bool // Fulcio has nothing to compare with
}

// floodings are one that no limit meets, for its addresses are as many as those of
// honest clients, and one that a limit does. That is three times Mayfly's default
// because 64 honest clients stand for many more.
var floodings = []flooding{
	{name: "flood from 64 addresses, no limits", addresses: junkClients},
	{name: "flood from 4 addresses, `per_address: 1800/min`", addresses: 4, perAddress: "1800/min", alone: true},
}

// floods measures all of them.
func (c *comparison) floods(ctx context.Context) ([]report.Flood, error) {
	var all []report.Flood
	for _, f := range floodings {
		measured, err := c.flood(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		all = append(all, measured...)
	}
	return all, nil
}

// flood measures honest clients with and without junk beside them.
func (c *comparison) flood(ctx context.Context, f flooding) ([]report.Flood, error) {
	r := usual
	r.spread, r.alone = true, f.alone
	contenders, err := c.contenders(ctx, r, f.perAddress)
	if err != nil {
		return nil, err
	}
	defer stop(contenders)
	floods := make([]report.Flood, len(contenders))
	runs := make([]floodRun, len(contenders))
	for i, who := range contenders {
		run := &runs[i]
		if run.dial, err = c.junk(who, f.addresses); err != nil {
			return nil, err
		}
		if run.clients, err = who.search(ctx, c.round/4); err != nil {
			return nil, err
		}
	}
	err = c.turns(contenders, func(i int, who contender) error {
		return who.closed(ctx, &runs[i].saturated, runs[i].clients, c.round*3/4)
	})
	if err != nil {
		return nil, err
	}
	for i := range runs {
		runs[i].rate = runs[i].saturated.Rate() / 2
	}
	if err := c.turns(contenders, func(i int, who contender) error { return c.floodOnce(ctx, &runs[i], who) }); err != nil {
		return nil, err
	}
	for i, who := range contenders {
		floods[i] = runs[i].report(who.name)
		floods[i].Name = f.name
		c.say(f.name+": %s kept %.0f of %.0f certificates/s, p99 %v, was %v", who.name, floods[i].SaturatedFlooded.Rate,
			floods[i].SaturatedAlone.Rate, floods[i].Flooded.P99, floods[i].Alone.P99)
	}
	return floods, ctx.Err()
}

// floodRun is the measurements of one server.
type floodRun struct {
	dial    load.Dial // of junk
	clients int
	rate    float64

	alone, flooded, saturated, saturatedFlooded measurement
	junk                                        load.Result
}

func (c *comparison) floodOnce(ctx context.Context, run *floodRun, who contender) error {
	if err := who.open(ctx, &run.alone, run.rate, c.round); err != nil {
		return err
	}
	err := run.beside(ctx, c.round, func() error { return who.open(ctx, &run.flooded, run.rate, c.round) })
	if err != nil {
		return err
	}
	return run.beside(ctx, c.round, func() error {
		return who.closed(ctx, &run.saturatedFlooded, run.clients, c.round*3/4)
	})
}

// beside has junk arrive while something else is measured.
func (r *floodRun) beside(ctx context.Context, round time.Duration, measure func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		load.Result
		error
	}
	done := make(chan outcome, 1)
	go func() {
		// It is cancelled long before its time.
		result, err := load.Open{Rate: junkFactor * r.rate, Duration: 3 * round, Clients: junkClients, Timeout: load.DefaultTimeout}.Run(ctx, r.dial)
		done <- outcome{result, err}
	}()
	err := measure()
	cancel()
	junk := <-done
	if err != nil {
		return err
	}
	if junk.error != nil {
		return junk.error
	}
	return r.junk.Merge(junk.Result)
}

func (r *floodRun) report(name string) report.Flood {
	f := report.Flood{
		Server: name, Offered: junkFactor * r.rate,
		Alone: r.alone.load(), Flooded: r.flooded.load(),
		SaturatedAlone: r.saturated.load(), SaturatedFlooded: r.saturatedFlooded.load(),
	}
	f.Alone.Offered, f.Flooded.Offered = r.rate, r.rate
	if r.junk.Elapsed > 0 {
		f.Answered = float64(r.junk.Sent) / r.junk.Elapsed.Seconds()
	}
	return f
}

// junk lays out requests of every kind that costs nothing to make, or nothing
// but a key of one's own.
func (c *comparison) junk(who contender, addresses int) (load.Dial, error) {
	applicants, err := c.applicants(usual)
	if err != nil {
		return nil, err
	}
	good := &load.REST{Address: who.server.REST}
	tokens, err := c.junkTokens(applicants[0].Token)
	if err != nil {
		return nil, err
	}
	body := bytes.Repeat([]byte(" "), 600)
	copy(body, `{"publicKeyRequest":{"publicKey":{"content":"-----BEGIN PUBLIC KEY-----"},"proofOfPossession":"AAAA"}}`)
	var requests [][]byte
	for i := range 10 * oversizedEach {
		requests = append(requests, good.Raw("/api/v2/signingCert", tokens[i%len(tokens)], body))
		if i%oversizedEach == 0 {
			requests[i] = good.Raw("/api/v2/signingCert", tokens[0], bytes.Repeat([]byte("x"), oversized))
		}
	}
	junk := &load.REST{Address: who.server.REST, Junk: true, Source: func(client int) net.IP {
		return load.SourceIn(junkBlock)(client % addresses)
	}}
	junk.Send(requests)
	return junk.Dial, nil
}

func (c *comparison) junkTokens(good string) ([]string, error) {
	stranger, err := site.NewProvider("https://login.stranger.example/realms/eng")
	if err != nil {
		return nil, err
	}
	forger, err := site.NewProvider(c.Provider.URL)
	if err != nil {
		return nil, err
	}
	email := "person1@corp.example"
	var tokens []string
	for _, make := range []func() (string, error){
		func() (string, error) { return strings.Repeat("x", 500), nil },
		func() (string, error) { return strings.Repeat(".", 500), nil },
		func() (string, error) { return stranger.Token(site.RS256, email, nil) },
		func() (string, error) { return forger.Token(site.RS256, email, nil) },
		func() (string, error) {
			parts := strings.Split(good, ".")
			return parts[0] + "." + parts[1] + "." + strings.Repeat("A", 342), nil
		},
		func() (string, error) {
			return c.Provider.Token(site.RS256, email, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})
		},
		func() (string, error) {
			return c.Provider.Token(site.RS256, email, map[string]any{"aud": "vault", "jti": rand.Text()})
		},
	} {
		token, err := make()
		if err != nil {
			return nil, fmt.Errorf("making junk: %w", err)
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}
