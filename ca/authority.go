package ca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what an Authority is made of.
type Config struct {
	// Chains are all chains, signing, future and retired.
	Chains []*Chain
	// Profiles are the certificate profiles; one named "default" always exists
	// and may be given here.
	Profiles []Profile
	Policy   Policy
	Recorder Recorder
	// Log is where precertificates go. It may be nil only with WithoutLog.
	Log Log
	// WithoutLog says that the operator switched logging off by name.
	WithoutLog bool
	// Previous is the Authority that this one follows when the configuration is
	// reloaded; nil at a start. New refuses chains that would sign sooner than
	// their MinLead after this process has first published them, and to unpublish
	// the one that signs. The clock is watched since Previous was first watching.
	// It only reads from Previous and keeps nothing of it.
	Previous *Authority
	// Clock is the time; nil means time.Now.
	Clock func() time.Time
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
}

// Authority is the only code that makes certificates. It is immutable and safe
// for concurrent use; a new configuration makes a new one.
type Authority struct {
	chains   []*Chain
	schedule schedule // of chains
	profiles map[string]Profile
	policy   Policy
	recorder Recorder
	log      Log
	clock    func() time.Time
	guard    clockGuard
	metrics  *metrics
	// publications says since when the issuing keys are published here.
	publications map[lineage]time.Time
}

// New checks the configuration and returns an Authority. It does no I/O.
func New(cfg Config) (*Authority, error) {
	switch {
	case cfg.Policy == nil:
		return nil, errors.New("ca: no policy")
	case cfg.Recorder == nil:
		return nil, errors.New("ca: no audit recorder")
	case cfg.Log == nil && !cfg.WithoutLog:
		return nil, errors.New("ca: no log, and logging is not disabled")
	case cfg.Log != nil && cfg.WithoutLog:
		return nil, errors.New("ca: logging is disabled, but there is a log")
	case len(cfg.Chains) == 0:
		return nil, errors.New("ca: no chain")
	}
	a := &Authority{
		chains: slices.Clone(cfg.Chains), policy: cfg.Policy, recorder: cfg.Recorder, log: cfg.Log, clock: cfg.Clock,
	}
	if a.clock == nil {
		a.clock = time.Now
	}
	a.guard = clockGuard{a.clock()}
	if cfg.Previous != nil {
		// A reload is no start: a clock that was set before it is no better for it.
		a.guard = cfg.Previous.guard
	}
	seen := map[string]bool{}
	for _, c := range a.chains {
		if seen[c.name] {
			return nil, fmt.Errorf("ca: two chains are named %q", c.name)
		}
		seen[c.name] = true
	}
	var err error
	if a.profiles, err = checkProfiles(cfg.Profiles, a.chains); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	a.schedule = newSchedule(a.chains)
	now := a.clock()
	a.publications = publications(a.chains, cfg.Previous, now)
	if cfg.Previous != nil {
		if err := a.checkSuccession(cfg.Previous, now); err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
	}
	if _, err := Rehearse(a.chains, cfg.Profiles, now); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if a.metrics, err = newMetrics(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("ca: registering metrics: %w", err)
	}
	a.metrics.logging.Set(0)
	if a.log != nil {
		a.metrics.logging.Set(1)
	}
	return a, nil
}

// Issue turns a verified identity plus a proven key into a logged, short-lived
// certificate, or returns a [*Refusal]. Whatever happens, every request is
// counted, every intent closed and every refusal recorded.
func (a *Authority) Issue(ctx context.Context, r Request) (Certificate, error) {
	// 1. Policy decides, and the decision is turned into bytes that an
	// independent parser has compared with it. Nothing was signed so far.
	decision, d, encoded, err := a.prepare(ctx, r)
	if err != nil {
		return Certificate{}, a.refuse(ctx, r, decision, err)
	}
	// 2. Turn away now what could not be finished: a precertificate that no log
	// takes is a signature wasted and an intent left to explain.
	if err := a.ready(d.chain, r); err != nil {
		return Certificate{}, a.refuse(ctx, r, decision, err)
	}
	// 3. The intent is on disk before the first signature exists.
	logTBS := encoded.with(nil)
	done := a.metrics.stage(stageIntent)
	intent, err := a.recorder.Intent(ctx, Intent{
		Request: r, Decision: decision, Serial: d.serial, Chain: d.chain.name, IssuerKeyHash: d.chain.issuerKeyHash,
		TBSHash: sha256.Sum256(logTBS), NotBefore: d.notBefore, NotAfter: d.notAfter,
	})
	done()
	if err != nil {
		return Certificate{}, a.count(unavailable(ctx, ReasonAuditFailed, "recording the intent", err))
	}
	// 4. Precertificate, SCT and final certificate. A bug in a key or a log goes
	// on to whoever recovers, but not without the intent's outcome.
	returned := false
	defer func() {
		if !returned {
			a.abandon(ctx, intent, d)
		}
	}()
	cert, err := a.sign(ctx, d, encoded, logTBS)
	returned = true
	// 5. The outcome is recorded before the reply, whatever it is and whether or
	// not the client still waits.
	outcome := Outcome{Intent: intent, Serial: d.serial, SCT: cert.sct}
	if err != nil {
		outcome.Err = AsRefusal(err)
	} else {
		outcome.CertificateHash = sha256.Sum256(cert.DER)
	}
	if recErr := a.recorder.Outcome(context.WithoutCancel(ctx), outcome); recErr != nil {
		unknown := Refuse(KindUnavailable, ReasonAuditFailed, "recording the outcome: %w", errors.Join(recErr, err))
		unknown.Uncertain = true
		return Certificate{}, a.count(unknown)
	}
	if err != nil {
		return Certificate{}, a.count(outcome.Err)
	}
	_ = a.count(nil)
	return cert, nil
}

// abandon closes the intent of an issuance that panicked.
func (a *Authority) abandon(ctx context.Context, intent uint64, d *draft) {
	bug := a.count(Refuse(KindInternal, ReasonInternal, "panic while signing or logging"))
	// There is nobody to return an error to: the panic is on its way.
	_ = a.recorder.Outcome(context.WithoutCancel(ctx), Outcome{Intent: intent, Serial: d.serial, Err: bug})
}

// prepare decides and drafts: policy, chain, profile, names, bytes, judgement.
func (a *Authority) prepare(ctx context.Context, r Request) (Decision, *draft, tbs, error) {
	if r.Key.IsZero() {
		return Decision{}, nil, tbs{}, errors.New("request without a proven key")
	}
	decision, err := a.policy(ctx, r)
	if err != nil {
		return Decision{}, nil, tbs{}, err
	}
	d, err := a.draft(r, decision)
	if err != nil {
		return decision, nil, tbs{}, err
	}
	encoded, err := d.encode()
	if err != nil {
		return decision, nil, tbs{}, err
	}
	// What is signed first: the precertificate or, when nothing is logged, the
	// certificate itself.
	d.judged = encoded.with(nil)
	if d.logged {
		d.judged = precertificate(encoded)
	}
	if err := judge(d.judged, d, r.Identity); err != nil {
		return decision, nil, tbs{}, Refuse(KindInternal, ReasonProfileViolation, "judging the certificate: %w", err)
	}
	if d.chain.constrained {
		if err := d.chain.twin.verify(d); err != nil {
			return decision, nil, tbs{}, fmt.Errorf("rehearsing under the chain's name constraints: %w", err)
		}
	}
	return decision, d, encoded, nil
}

func (a *Authority) draft(r Request, decision Decision) (*draft, error) {
	profile, ok := a.profiles[orDefault(decision.Profile)]
	if !ok {
		return nil, fmt.Errorf("rule %q wants the profile %q, which does not exist", decision.Rule, decision.Profile)
	}
	if !profile.allows(r.Key.Kind()) {
		return nil, Refuse(KindInvalid, ReasonKeyNotAllowed, "profile %q does not allow %s keys", profile.Name, r.Key.Kind())
	}
	if decision.SAN.kind == "" {
		return nil, fmt.Errorf("rule %q decided no name", decision.Rule)
	}
	chain, err := a.schedule.signing(orDefault(decision.Authority), r.Time)
	if err != nil {
		return nil, err
	}
	notBefore, notAfter, err := profile.validity(r.Time, chain)
	if err != nil {
		return nil, err
	}
	extensions, err := fulcioExtensions(decision.Extensions, r.Identity)
	if err != nil {
		return nil, err
	}
	return &draft{
		serial: newSerial(), chain: chain, notBefore: notBefore, notAfter: notAfter,
		key: r.Key, san: decision.SAN, extensions: extensions, logged: a.log != nil,
		policies: profile.Policies, noRevAvail: profile.NoRevAvail,
	}, nil
}

// fulcioExtensions puts the identity's extensions around the decided ones.
func fulcioExtensions(decided []Extension, id Identity) ([]Extension, error) {
	all := append(make([]Extension, 0, len(decided)+3),
		Extension{extIssuerRaw, id.Issuer}, Extension{extIssuer, id.Issuer}, Extension{extTokenSubject, id.Subject})
	for _, e := range decided {
		switch {
		case e.Value == "":
			continue // Fulcio emits no empty extension
		case e.Number <= extIssuerRaw || e.Number >= extTokenSubject || e.Number == extOtherName || e.Number == extIssuer:
			return nil, fmt.Errorf("extension 57264.1.%d cannot be decided by policy", e.Number)
		}
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(x, y Extension) int { return x.Number - y.Number })
	for i := 1; i < len(all); i++ {
		if all[i].Number == all[i-1].Number {
			return nil, fmt.Errorf("extension 57264.1.%d was decided twice", all[i].Number)
		}
	}
	return all, nil
}

func orDefault(name string) string {
	if name == "" {
		return DefaultName
	}
	return name
}

// ready refuses what could not be finished, before anything is recorded or
// signed. The clock is read once more for the token's expiry only: a request
// may have waited since its one reading, and an expired token earns nothing.
func (a *Authority) ready(chain *Chain, r Request) error {
	now, err := a.readClock()
	if err != nil {
		return err
	}
	if !now.Before(r.Identity.Token.UsableUntil) {
		return Refuse(KindInvalid, ReasonExpired, "the token expired while the request waited")
	}
	// The certificate's validity starts from the request's reading, so that one
	// must stand the same test. Round(0) drops the monotonic readings, by which
	// a clock that was set in between would look right.
	if now.Round(0).Sub(r.Time.Round(0)).Abs() > maxClockJump {
		return Refuse(KindUnavailable, ReasonClock, "the request was read at %v, and now it is %v", r.Time.UTC(), now.UTC())
	}
	if err := chain.signerReady(); err != nil {
		return Refuse(KindUnavailable, ReasonSignerFailed, "chain %q: %w", chain.name, err)
	}
	if err := a.recorder.Ready(); err != nil {
		return Refuse(KindUnavailable, ReasonAuditFailed, "%w", err)
	}
	if a.log != nil {
		if err := a.log.Ready(); err != nil {
			if r, ok := errors.AsType[*Refusal](err); ok {
				return r
			}
			return Refuse(KindUnavailable, ReasonLogFailed, "%w", err)
		}
	}
	return nil
}

// readClock reads the clock and refuses one that was set: while the service
// runs, against monotonic time; across restarts, against the last record, which
// is read first because records go on being written.
func (a *Authority) readClock() (time.Time, error) {
	last := a.recorder.LastTime()
	now := a.clock()
	if now.Before(last) {
		return now, Refuse(KindUnavailable, ReasonClock,
			"the clock stands at %v, before the last audit record of %v; set it right", now.UTC(), last.UTC())
	}
	return now, a.guard.check(now)
}

// sign makes the precertificate, gets its SCT and makes the final certificate
// from the same bytes.
func (a *Authority) sign(ctx context.Context, d *draft, encoded tbs, logTBS []byte) (Certificate, error) {
	cert := Certificate{chain: d.chain, Serial: d.serial, NotBefore: d.notBefore, NotAfter: d.notAfter}
	if !d.logged {
		// The operator wrote `logs: disabled`. There is no poison to replace.
		var err error
		cert.DER, err = a.signTBS(ctx, stageFinal, d.chain, d.judged)
		return cert, err
	}
	precert, err := a.signTBS(ctx, stagePrecert, d.chain, d.judged)
	if err != nil {
		return cert, err
	}
	done := a.metrics.stage(stageLog)
	sct, err := a.log.Submit(ctx, Submission{
		Precertificate: precert, Issuers: d.chain.ders, TBS: logTBS, IssuerKeyHash: d.chain.issuerKeyHash,
	})
	done()
	if err != nil {
		return cert, unavailable(ctx, ReasonLogFailed, "submitting the precertificate", err)
	}
	if len(sct.TLS) == 0 {
		return cert, Refuse(KindInternal, ReasonLogFailed, "log %q gave an empty SCT", sct.Log)
	}
	cert.sct = sct
	list, err := sctList(sct.TLS)
	if err != nil {
		return cert, fmt.Errorf("encoding the SCT list: %w", err)
	}
	finalTBS := encoded.with(list)
	if err := correspond(d.judged, finalTBS, sct.TLS); err != nil {
		return cert, Refuse(KindInternal, ReasonProfileViolation, "comparing with the precertificate: %w", err)
	}
	cert.DER, err = a.signTBS(ctx, stageFinal, d.chain, finalTBS)
	return cert, err
}

// signTBS signs to-be-signed bytes and returns the certificate. The signature
// is verified before anybody sees it: a faulty HSM must not hand out broken
// certificates, and a fault in an RSA signature gives the key away.
func (a *Authority) signTBS(ctx context.Context, stage string, c *Chain, tbsDER []byte) ([]byte, error) {
	defer a.metrics.stage(stage)()
	sum := digest(c.hash, tbsDER)
	signature, err := c.signer.Sign(ctx, sum, c.hash)
	if err != nil {
		return nil, unavailable(ctx, ReasonSignerFailed, "signing the "+stage+" certificate", err)
	}
	if !c.verifier()(sum, signature) {
		return nil, Refuse(KindUnavailable, ReasonSignerFailed, "the key of chain %q made a signature that does not verify", c.name)
	}
	return certificate(tbsDER, c.signatureAlgorithm, signature), nil
}

// unavailable classifies the error of a stage: a refusal keeps its reason, an
// expired request is a deadline, anything else an outage of that stage.
func unavailable(ctx context.Context, reason Reason, doing string, err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	if ctx.Err() != nil {
		return Refuse(KindUnavailable, ReasonDeadline, "%s: %w", doing, err)
	}
	return Refuse(KindUnavailable, reason, "%s: %w", doing, err)
}
