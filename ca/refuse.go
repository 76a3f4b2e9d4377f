package ca

import (
	"context"
	"errors"
)

// Refuse records that a verified identity was refused before Issue saw it, for
// instance because its proof of possession failed, and returns the refusal.
func (a *Authority) Refuse(ctx context.Context, r Request, why error) *Refusal {
	return a.refuse(ctx, r, Decision{}, why)
}

// refuse counts and records a refusal that no intent precedes. A record that
// cannot be written changes nothing for the client, who gets no certificate
// either way, but the operator must learn of it.
func (a *Authority) refuse(ctx context.Context, r Request, d Decision, err error) *Refusal {
	refusal := AsRefusal(err)
	if recErr := a.recorder.Refused(context.WithoutCancel(ctx), r, d, refusal); recErr != nil {
		refusal = &Refusal{
			Reason: refusal.Reason, Kind: refusal.Kind, RetryAfter: refusal.RetryAfter, Uncertain: refusal.Uncertain,
			Err: errors.Join(refusal.Err, recErr),
		}
	}
	return a.count(refusal)
}

// count counts the result of one request and returns it; nil is a certificate.
func (a *Authority) count(r *Refusal) *Refusal {
	if r == nil {
		a.metrics.issuance.WithLabelValues("issued", "").Inc()
		return nil
	}
	a.metrics.issuance.WithLabelValues("refused", string(r.Reason)).Inc()
	return r
}
