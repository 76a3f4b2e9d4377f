package main

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/report"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/site"
	"github.com/mayfly-ca/mayfly/internal/floor"
)

// comparison is one run of the program.
type comparison struct {
	*site.Site
	round  time.Duration
	rounds int
	out    io.Writer // progress

	cas  map[string]site.CA
	keys map[load.Kind][]crypto.Signer
}

// people ask for certificates; limits count by person.
const people = 64

// contenders starts the servers of a row, Mayfly first, and lays out requests.
// The limit per address is Mayfly's; empty for none. The caller stops them.
func (c *comparison) contenders(ctx context.Context, r row, perAddress string) ([]contender, error) {
	ca, err := c.ca(r.ca)
	if err != nil {
		return nil, err
	}
	applicants, err := c.applicants(r)
	if err != nil {
		return nil, err
	}
	setup := site.Setup{CA: ca, Log: r.log, TLS: r.tls, PerAddress: perAddress}
	var all []contender
	start := func(name string, start func(context.Context, site.Setup) (*site.Server, error)) error {
		server, err := start(ctx, setup)
		if err != nil {
			return fmt.Errorf("starting %s: %w", name, err)
		}
		all = append(all, contender{name: name, server: server, backend: c.Backend()})
		all[len(all)-1].dial, err = r.dial(c.Site, server, ca, applicants)
		return err
	}
	err = start(mayfly, c.StartMayfly)
	if err == nil && !r.alone && c.Fulcio != "" {
		err = start(fulcio, c.StartFulcio)
	}
	if err != nil {
		stop(all)
		return nil, err
	}
	return all, nil
}

const (
	mayfly = "Mayfly"
	fulcio = "Fulcio"
)

func stop(contenders []contender) {
	for _, c := range contenders {
		c.server.Stop()
	}
}

func (c *comparison) ca(kind string) (site.CA, error) {
	if ca, ok := c.cas[kind]; ok {
		return ca, nil
	}
	ca, err := c.NewCA(kind)
	if err == nil {
		c.cas[kind] = ca
	}
	return ca, err
}

// applicants are the people with their keys, and tokens that are new.
func (c *comparison) applicants(r row) ([]load.Applicant, error) {
	keys, ok := c.keys[r.client]
	if !ok {
		c.say("making %d keys of kind %s", r.client.Keys(), r.client)
		var err error
		if keys, err = r.client.NewKeys(); err != nil {
			return nil, err
		}
		c.keys[r.client] = keys
	}
	var emails, tokens [people]string
	for i := range people {
		emails[i] = fmt.Sprintf("person%d@corp.example", i)
		var err error
		if tokens[i], err = c.Provider.Token(r.token, emails[i], nil); err != nil {
			return nil, err
		}
	}
	applicants := make([]load.Applicant, max(people, len(keys)))
	for i := range applicants {
		var err error
		if applicants[i], err = load.NewApplicant(emails[i%people], tokens[i%people], keys[i%len(keys)]); err != nil {
			return nil, err
		}
	}
	return applicants, nil
}

// measure does one row.
func (c *comparison) measure(ctx context.Context, r row) (report.Row, error) {
	result := report.Row{Name: r.name}
	if err := c.floors(r, &result); err != nil {
		return result, err
	}
	contenders, err := c.contenders(ctx, r, "")
	if err != nil {
		return result, err
	}
	defer stop(contenders)
	sides, err := c.compete(ctx, r, contenders)
	if err != nil {
		return result, err
	}
	result.Mayfly = sides[0]
	if len(sides) > 1 {
		result.Fulcio = &sides[1]
	}
	return result, ctx.Err()
}

// floorTurns are enough for a minimum that holds.
const floorTurns = 5

func (c *comparison) floors(r row, result *report.Row) error {
	ours, theirs, err := r.floors()
	if err != nil {
		return err
	}
	result.Floor = leastCPU(ours)
	if theirs != nil {
		result.Arithmetic = theirs.Ratio(ours, floorTurns)
	}
	return nil
}

// leastCPU is the CPU time of one round. Noise only adds to it.
func leastCPU(f *floor.Floor) time.Duration {
	least := f.CPU(20)
	for range floorTurns {
		least = min(least, f.CPU(20))
	}
	return least
}

// compete puts the servers under the loads of a row, in turns.
func (c *comparison) compete(ctx context.Context, r row, contenders []contender) ([]report.Side, error) {
	sides := make([]report.Side, len(contenders))
	for i, who := range contenders {
		n, err := who.search(ctx, c.round/4)
		if err != nil {
			return nil, err
		}
		sides[i].Saturated.Clients = n
	}
	saturated := make([]measurement, len(contenders))
	err := c.turns(contenders, func(i int, who contender) error {
		return who.closed(ctx, &saturated[i], sides[i].Saturated.Clients, c.round*3/4)
	})
	if err != nil {
		return nil, err
	}
	slowest := 0
	for i := range sides {
		n := sides[i].Saturated.Clients
		sides[i].Saturated = saturated[i].load()
		sides[i].Saturated.Clients = n
		if sides[i].Saturated.Rate < sides[slowest].Saturated.Rate {
			slowest = i
		}
		c.say("%s: %s saturated at %.0f/s with %d clients, %v CPU each", r.name, contenders[i].name, sides[i].Saturated.Rate, n, sides[i].Saturated.CPU)
	}
	if err := c.steady(ctx, contenders, sides, slowest); err != nil {
		return nil, err
	}
	for i, who := range contenders {
		memory, err := site.MemoryOf(who.server.Pid())
		if err != nil {
			return nil, err
		}
		sides[i].Resident, sides[i].Peak = memory.Resident, memory.Peak
		c.say("%s: %s at equal load %.0f/s: p50 %v p99 %v; at half load %.0f/s: p99 %v", r.name, who.name,
			sides[i].Equal.Offered, sides[i].Equal.P50, sides[i].Equal.P99, sides[i].Own.Offered, sides[i].Own.P99)
	}
	return sides, nil
}

// steady measures at equal load and at half load, which for the slowest server
// are the same.
func (c *comparison) steady(ctx context.Context, contenders []contender, sides []report.Side, slowest int) error {
	rate := sides[slowest].Saturated.Rate / 2
	equal, own := make([]measurement, len(contenders)), make([]measurement, len(contenders))
	err := c.turns(contenders, func(i int, who contender) error { return who.open(ctx, &equal[i], rate, c.round) })
	if err != nil {
		return err
	}
	err = c.turns(contenders, func(i int, who contender) error {
		if i == slowest {
			return nil
		}
		return who.open(ctx, &own[i], sides[i].Saturated.Rate/2, c.round)
	})
	if err != nil {
		return err
	}
	for i := range sides {
		sides[i].Equal = equal[i].load()
		sides[i].Equal.Offered = rate
		sides[i].Own = sides[i].Equal
		if i != slowest {
			sides[i].Own = own[i].load()
			sides[i].Own.Offered = sides[i].Saturated.Rate / 2
		}
	}
	return nil
}

// turns has each server measured in every round: A B A B.
func (c *comparison) turns(contenders []contender, measure func(int, contender) error) error {
	for range c.rounds {
		for i, who := range contenders {
			if err := measure(i, who); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *comparison) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }
