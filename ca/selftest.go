package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// APISelfTest is what the journal shows as API of a self-test, and as its rule.
const APISelfTest = "self-test"

// The validity of a self-test's certificate: the first second of 1970. It ended
// before any chain began.
var selfTestNotBefore, selfTestNotAfter = time.Unix(0, 0).UTC(), time.Unix(1, 0).UTC()

// SelfTest has the key of every chain that signs now make one signature, and
// verifies it, before anybody depends on it: a key that answers but belongs to
// another certificate, or an HSM that computes wrongly, shows itself here.
//
// What is signed is worth nothing to anybody: a certificate for a key that is
// forgotten at once, with no name, no usage and the critical poison of a
// precertificate, that expired in 1970. Like everything that a CA key signs, it
// has a durable intent first, marked as a self-test, and an outcome that says
// that it was handed to nobody ([ReasonSelfTest]). It is not logged.
//
// The error joins one [Refusal] for each chain that failed.
func (a *Authority) SelfTest(ctx context.Context) error {
	now, err := a.readClock()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range authorities(a.chains) {
		chain, err := signing(a.chains, name, now)
		if err != nil {
			continue // nothing signs, which is no fault of a key
		}
		if err := a.selfTest(ctx, chain, now); err != nil {
			errs = append(errs, fmt.Errorf("testing the key of chain %q: %w", chain.name, err))
		}
	}
	return errors.Join(errs...)
}

func (a *Authority) selfTest(ctx context.Context, c *Chain, now time.Time) error {
	if err := c.signerReady(); err != nil {
		return Refuse(KindUnavailable, ReasonSignerFailed, "%w", err)
	}
	key, err := rehearsalKey()
	if err != nil {
		return err
	}
	d := &draft{serial: newSerial(), chain: c, notBefore: selfTestNotBefore, notAfter: selfTestNotAfter, key: key}
	tbsDER, plain := d.encodeSelfTest()
	if err := judgeSelfTest(tbsDER, d); err != nil {
		return Refuse(KindInternal, ReasonProfileViolation, "judging the self-test's certificate: %w", err)
	}
	intent, err := a.recorder.Intent(ctx, Intent{
		Request:  Request{ID: APISelfTest, API: APISelfTest, Key: key, Time: now},
		Decision: Decision{Rule: APISelfTest, Authority: c.authority},
		Serial:   d.serial, Chain: c.name, IssuerKeyHash: c.issuerKeyHash,
		TBSHash: sha256.Sum256(plain), NotBefore: d.notBefore, NotAfter: d.notAfter,
	})
	if err != nil {
		return unavailable(ctx, ReasonAuditFailed, "recording the intent", err)
	}
	_, err = a.signTBS(ctx, stagePrecert, c, tbsDER)
	outcome := Outcome{Intent: intent, Serial: d.serial, Err: Refuse(KindInternal, ReasonSelfTest, "the certificate was thrown away")}
	if err != nil {
		outcome.Err = AsRefusal(err)
	}
	if recErr := a.recorder.Outcome(context.WithoutCancel(ctx), outcome); recErr != nil {
		return Refuse(KindUnavailable, ReasonAuditFailed, "recording the outcome: %w", errors.Join(recErr, err))
	}
	return err
}

// encodeSelfTest returns the to-be-signed bytes with and without poison.
func (d *draft) encodeSelfTest() (poisoned, plain []byte) {
	t := tbs{d.appendFields(nil), d.appendAKI(nil)}
	return precertificate(t), t.with(nil)
}

// judgeSelfTest demands, by an independent parser, that what is signed is of no
// use.
func judgeSelfTest(tbsDER []byte, d *draft) error {
	cert, err := parseTBS(tbsDER, d.chain.signatureAlgorithm)
	if err != nil {
		return fmt.Errorf("parsing to-be-signed bytes: %w", err)
	}
	switch {
	case !bytes.Equal(cert.RawTBSCertificate, tbsDER):
		return errors.New("parsed to-be-signed bytes differ from ours")
	case !cert.NotBefore.Equal(selfTestNotBefore) || !cert.NotAfter.Equal(selfTestNotAfter):
		return fmt.Errorf("valid from %v to %v", cert.NotBefore, cert.NotAfter)
	case !bytes.Equal(cert.RawSubject, []byte{0x30, 0}) || !bytes.Equal(cert.RawIssuer, d.chain.issuing().RawSubject):
		return errors.New("has a subject, or another issuer")
	case !bytes.Equal(cert.SerialNumber.FillBytes(make([]byte, 20)), d.serial[:]):
		return errors.New("serial number differs")
	case samePublicKey(cert.PublicKey, d.chain.issuing().PublicKey) || !samePublicKey(cert.PublicKey, d.key.public):
		return errors.New("public key differs")
	case cert.SignatureAlgorithm != d.chain.algorithm:
		return fmt.Errorf("signature algorithm %v", cert.SignatureAlgorithm)
	case len(cert.Extensions) != 2 || !cert.Extensions[0].Id.Equal(oidAKI) || cert.Extensions[0].Critical ||
		!cert.Extensions[1].Id.Equal(oidPoison) || !cert.Extensions[1].Critical:
		return errors.New("has other extensions than authority key identifier and critical poison")
	case cert.IsCA || cert.KeyUsage != 0 || cert.ExtKeyUsage != nil || cert.Version != 3:
		return errors.New("is of some use")
	}
	return nil
}
