package embedded

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
)

const (
	maxTile      = 8 << 10 // 256 hashes
	inclusionLag = 200 * time.Millisecond
)

// VerifyInclusion proves over HTTP that a static-ct-api log contains what an SCT
// promises: it verifies the checkpoint under publicKey (PEM or DER, ECDSA P-256)
// and origin, and computes the inclusion proof from tiles for the leaf at the
// SCT's index. It trusts nothing of the server's. Of s only TBS and IssuerKeyHash
// are used; the SCT's signature is not checked.
//
// If the checkpoint does not cover the entry yet, it is fetched again until it
// does or ctx ends. baseURL is the monitoring prefix; a nil client means
// http.DefaultClient.
func VerifyInclusion(ctx context.Context, baseURL string, httpClient *http.Client, publicKey []byte, origin string, sct ctlog.SCT, s ctlog.Submission) error {
	key, err := ctlog.ParseKey(publicKey)
	if err != nil {
		return fmt.Errorf("verifying inclusion: %w", err)
	}
	public, err := x509.ParsePKIXPublicKey(key.DER())
	if err != nil {
		return fmt.Errorf("verifying inclusion: %w", err)
	}
	ec, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return errors.New("verifying inclusion: a static-ct-api log has an ECDSA key")
	}
	if sct.LogID != key.ID() {
		return fmt.Errorf("verifying inclusion: the SCT is of log %x, not %x", sct.LogID, key.ID())
	}
	if sct.Index < 0 {
		return errors.New("verifying inclusion: the SCT has no leaf index")
	}
	if httpClient == nil {
		httpClient = http.DefaultClient
	}
	r := reader{base: strings.TrimRight(baseURL, "/"), client: httpClient}
	head, err := r.awaitCheckpoint(ctx, newVerifier(origin, key.ID(), ec), uint64(sct.Index)+1)
	if err != nil {
		return fmt.Errorf("verifying inclusion: %w", err)
	}
	leafHash, err := ctlog.LeafHash(s, sct)
	if err != nil {
		return fmt.Errorf("verifying inclusion: %w", err)
	}
	builder, err := client.NewProofBuilder(ctx, head.size, r.tile)
	if err != nil {
		return fmt.Errorf("verifying inclusion: %w", err)
	}
	nodes, err := builder.InclusionProof(ctx, uint64(sct.Index))
	if err != nil {
		return fmt.Errorf("verifying inclusion: %w", err)
	}
	err = proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(sct.Index), head.size, leafHash[:], nodes, head.root[:])
	if err != nil {
		return fmt.Errorf("verifying inclusion of entry %d in %d: %w", sct.Index, head.size, err)
	}
	return nil
}

// reader fetches from a log's monitoring prefix, with limits.
type reader struct {
	base   string
	client *http.Client
}

func (r reader) awaitCheckpoint(ctx context.Context, v *verifier, size uint64) (checkpoint, error) {
	ticker := time.NewTicker(inclusionLag)
	defer ticker.Stop()
	for {
		raw, err := r.get(ctx, layout.CheckpointPath, maxSmallFile)
		if err != nil {
			return checkpoint{}, err
		}
		head, err := v.open(raw)
		if err != nil {
			return checkpoint{}, err
		}
		if head.size >= size {
			return head, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return checkpoint{}, fmt.Errorf("the checkpoint covers %d entries, not entry %d: %w",
				head.size, size-1, context.Cause(ctx))
		}
	}
}

// tile is a client.TileFetcherFunc. A log may drop a partial tile once the full
// one exists.
func (r reader) tile(ctx context.Context, level, index uint64, partial uint8) ([]byte, error) {
	raw, err := r.get(ctx, layout.TilePath(level, index, partial), maxTile)
	if partial != 0 && errors.Is(err, fs.ErrNotExist) {
		return r.get(ctx, layout.TilePath(level, index, 0), maxTile)
	}
	return raw, err
}

func (r reader) get(ctx context.Context, path string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, fmt.Errorf("fetching %s: %w", path, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("fetching %s: HTTP %d", path, resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", path, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("fetching %s: more than %d bytes", path, limit)
	}
	return raw, nil
}
