package embedded

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"k8s.io/klog/v2"
)

// Tessera logs through klog, which is global to the process and writes to
// standard error. The first log opened redirects it for good; messages go to the
// logger of the log opened last, because klog cannot tell logs apart.
var (
	redirectOnce sync.Once
	redirected   redirect
)

func redirectKlog(l *slog.Logger) {
	h := l.Handler()
	redirected.to.Store(&h)
	// Replacing klog's logger later would race with Tessera's goroutines.
	redirectOnce.Do(func() { klog.SetSlogLogger(slog.New(&redirected)) })
}

// redirect is a slog.Handler that passes on to another, which may change.
type redirect struct {
	to atomic.Pointer[slog.Handler]
}

func (r *redirect) Enabled(ctx context.Context, level slog.Level) bool {
	return (*r.to.Load()).Enabled(ctx, level)
}

func (r *redirect) Handle(ctx context.Context, record slog.Record) error {
	record.AddAttrs(slog.String("source", "tessera"))
	return (*r.to.Load()).Handle(ctx, record)
}

func (r *redirect) WithAttrs(attrs []slog.Attr) slog.Handler {
	return (*r.to.Load()).WithAttrs(attrs)
}

func (r *redirect) WithGroup(name string) slog.Handler {
	return (*r.to.Load()).WithGroup(name)
}
