package ctlog

import (
	"context"
	"time"
)

// probeTimeout bounds one probe. Nobody waits for it.
const probeTimeout = 2 * time.Second

// probe asks a log that rests, each time when its rest is over, until it answers
// or the pool is closed. Without it, somebody's certificate would be refused each
// time to find out.
func (p *Pool) probe(m *member, prober Prober) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	m.breaker.attend(true)
	p.probing.Go(func() {
		for {
			timer := time.NewTimer(m.breaker.rest(p.clock()))
			select {
			case <-timer.C:
			case <-p.stop:
				timer.Stop()
				m.breaker.attend(false)
				return
			}
			err := p.askProber(prober)
			select {
			case <-p.stop:
				m.breaker.attend(false)
				return
			default:
			}
			if err == nil {
				m.breaker.answered() // another probing may begin from here on
				p.logger.Info("transparency log answers again", "log", m.Name())
				return
			}
			m.breaker.unanswered(p.clock(), err)
			p.logger.Debug("transparency log does not answer", "log", m.Name(), "err", err)
		}
	})
}

func (p *Pool) askProber(prober Prober) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- prober.Probe(ctx) }()
	select {
	case err := <-done:
		return err
	case <-p.stop:
		cancel()
		return <-done
	}
}
