package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/oidc"
)

// verifier is a token layer with its refresher.
type verifier struct {
	*oidc.Verifier
	// of is a digest of everything that the token layer was told.
	of      [32]byte
	refresh func()
	cancel  context.CancelFunc
	done    sync.WaitGroup
	once    sync.Once
}

// verifierFor returns the token layer of the snapshot before when it was told the
// same; then keys that were fetched stay. What is remembered of tokens that were
// used stays in any case.
func (s *Stack) verifierFor(p *plan, before *snapshot) (*verifier, error) {
	of, err := p.tokenLayer()
	if err != nil {
		return nil, err
	}
	if before != nil && before.verifier.of == of {
		return before.verifier, nil
	}
	c := p.oidcConfig()
	c.CacheDir, c.Clock, c.Logger, c.Registerer = keyCacheDir(p.file.State), s.options.Clock, s.logger, s.registry
	if before != nil {
		c.Previous = before.verifier.Verifier
	}
	v := &verifier{of: of}
	if v.Verifier, err = oidc.New(c); err != nil {
		return nil, err
	}
	// The refresher lasts beyond whatever call starts it, until stop.
	ctx, cancel := context.WithCancel(context.Background())
	v.refresh, v.cancel = func() { v.Run(ctx) }, cancel
	return v, nil
}

// tokenLayer is a digest of what the token layer is told. What is read for each
// use, as client certificates are, is not in it.
func (p *plan) tokenLayer() ([32]byte, error) {
	var text bytes.Buffer
	for i, c := range p.file.Issuers {
		c.Rules, c.Allow, c.SAN, c.MayIssue, c.TrustedClaims = nil, "", "", config.MayIssue{}, nil
		one, err := yaml.Marshal(c) //nolint:gosec // ClientKey is the name of a file
		if err != nil {
			return [32]byte{}, fmt.Errorf("encoding issuer %q: %w", c.Name, err)
		}
		text.Write(one)
		text.Write(p.issuers[i].StaticJWKS)
		if c.CAFile != "" {
			roots, err := files.Read(c.CAFile)
			if err != nil {
				return [32]byte{}, err
			}
			text.Write(roots)
		}
		text.WriteByte(0)
	}
	fmt.Fprintf(&text, "%v", p.file.Limits.TokenSize)
	return sha256.Sum256(text.Bytes()), nil
}

// start keeps the providers' keys fresh from now on; calling it again does
// nothing.
func (v *verifier) start() { v.once.Do(func() { v.done.Go(v.refresh) }) }

// stop ends the refresher and waits. The keys at hand go on to verify tokens.
func (v *verifier) stop() {
	v.cancel()
	v.done.Wait()
}

// keysTimeout is how long a reload waits for keys of providers that worked before.
const keysTimeout = 5 * time.Second

// await waits until every issuer that has keys under the configuration before has
// them here too, so that no token is refused for want of keys that were there. It
// gives up without an error: a provider may be down.
func (v *verifier) await(ctx context.Context, before *verifier) {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	had := map[string]bool{}
	for _, is := range before.Ready() {
		had[is.Name] = is.Ready
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := false
		for _, is := range v.Ready() {
			missing = missing || (had[is.Name] && !is.Ready)
		}
		if !missing {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
