package embedded

import (
	"context"
	"fmt"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"github.com/transparency-dev/tessera/storage/posix"
)

const (
	// maxGroup is the most entries in one batch. Tessera writes at once when its
	// queue holds this many, and otherwise after batchAge.
	maxGroup = 1024
	batchAge = time.Millisecond
	// republishInterval renews the checkpoint of a quiet log, so that a monitor
	// can tell quiet from dead.
	republishInterval = 30 * time.Second
	collectInterval   = time.Minute
)

var emptyRoot = [32]byte(rfc6962.DefaultHasher.EmptyRoot())

// engine is Tessera's POSIX appender. Its goroutines end some time after ctx
// does and cannot be waited for; see Log.Close for what follows from that.
type engine struct {
	// add queues an entry. The future it returns blocks until the entry is in
	// its bundle, in the tiles and in the tree state, each synced to the disk.
	add func(context.Context, *ctonly.Entry) tessera.IndexFuture
	// shutdown waits until a checkpoint covers every entry added.
	shutdown func(context.Context) error
}

func startEngine(ctx context.Context, tree string, p *publisher, publish time.Duration) (*engine, error) {
	driver, err := posix.New(ctx, posix.Config{Path: tree})
	if err != nil {
		return nil, fmt.Errorf("opening storage: %w", err)
	}
	// Entries are not looked up for duplicates: serial numbers are random, and a
	// repeated submission is rare and harmless.
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(p).
		WithCTLayout().
		WithBatching(maxGroup, batchAge).
		WithCheckpointInterval(publish).
		WithCheckpointRepublishInterval(republishInterval).
		WithGarbageCollectionInterval(collectInterval).
		WithShutdownTimeout(shutdownTimeout)
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		return nil, fmt.Errorf("starting appender: %w", err)
	}
	return &engine{add: tessera.NewCertificateTransparencyAppender(appender), shutdown: shutdown}, nil
}
