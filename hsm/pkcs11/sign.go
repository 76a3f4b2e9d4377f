package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"time"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/hsm"
)

// request is a signature to be made, in the words of PKCS#11.
type request struct {
	mechanism func() []*p11.Mechanism
	input     []byte
	// finish makes what the token returned a signature as Go has it, and verifies
	// it.
	finish func(raw []byte) ([]byte, error)
}

// newRequest prepares a signature of a digest that hsm.CheckDigest has passed.
func newRequest(public crypto.PublicKey, digest []byte, opts crypto.SignerOpts) (*request, error) {
	opts, err := hsm.SignerOpts(public, opts)
	if err != nil {
		return nil, err
	}
	switch pub := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsaRequest(pub, digest), nil
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return pssRequest(pub, digest, pss)
		}
		return rsaRequest(pub, digest, opts.HashFunc())
	default:
		return nil, fmt.Errorf("no way to sign with a %T", public)
	}
}

func ecdsaRequest(pub *ecdsa.PublicKey, digest []byte) *request {
	// FIPS 186-5, Section 6.4.1: of a digest that is longer than the order of
	// the curve, the leftmost bits count. Some libraries cut it themselves, some
	// refuse it, and some are wrong.
	input := digest[:min(len(digest), (pub.Params().N.BitLen()+7)/8)]
	return &request{
		mechanism: plain(p11.CKM_ECDSA), input: input,
		finish: func(raw []byte) ([]byte, error) {
			sig, err := encodeECDSA(pub, raw)
			if err != nil {
				return nil, err
			}
			if !ecdsa.VerifyASN1(pub, digest, sig) {
				return nil, errors.New("it does not verify")
			}
			return sig, nil
		},
	}
}

// encodeECDSA makes DER of what CKM_ECDSA returns.
//
// PKCS#11 v2.40, Section 2.3.1: "the signature octets correspond to the
// concatenation of the ECDSA values r and s, both represented as an octet string
// of equal length of at most nLen with the most significant byte first." Here it
// is exactly nLen: what is shorter cannot be told from what was cut.
//
//	Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }  -- RFC 3279, Section 2.2.3
func encodeECDSA(pub *ecdsa.PublicKey, raw []byte) ([]byte, error) {
	n := pub.Params().N
	size := (n.BitLen() + 7) / 8
	if len(raw) != 2*size {
		return nil, fmt.Errorf("it has %d bytes, want %d", len(raw), 2*size)
	}
	r, s := new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])
	if r.Sign() == 0 || s.Sign() == 0 || r.Cmp(n) >= 0 || s.Cmp(n) >= 0 {
		return nil, errors.New("its r or s is not between 1 and the order of the curve")
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(r)
		b.AddASN1BigInt(s)
	})
	return b.Bytes()
}

// digestInfo begins what is padded and signed.
//
//	DigestInfo ::= SEQUENCE {                       -- RFC 8017, Section 9.2
//	  digestAlgorithm AlgorithmIdentifier,          -- with NULL parameters
//	  digest OCTET STRING }
var digestInfo = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

func rsaRequest(pub *rsa.PublicKey, digest []byte, hash crypto.Hash) (*request, error) {
	prefix, ok := digestInfo[hash]
	if !ok {
		return nil, fmt.Errorf("no DigestInfo for %v", hash)
	}
	return &request{
		mechanism: plain(p11.CKM_RSA_PKCS), input: append(prefix[:len(prefix):len(prefix)], digest...),
		finish: func(raw []byte) ([]byte, error) {
			// It demands the length of the modulus, too.
			return raw, rsa.VerifyPKCS1v15(pub, hash, digest, raw)
		},
	}, nil
}

// pssParams are the mechanisms of a hash and of MGF1 with it.
var pssParams = map[crypto.Hash][2]uint{
	crypto.SHA256: {p11.CKM_SHA256, p11.CKG_MGF1_SHA256},
	crypto.SHA384: {p11.CKM_SHA384, p11.CKG_MGF1_SHA384},
	crypto.SHA512: {p11.CKM_SHA512, p11.CKG_MGF1_SHA512},
}

func pssRequest(pub *rsa.PublicKey, digest []byte, opts *rsa.PSSOptions) (*request, error) {
	p, ok := pssParams[opts.Hash]
	if !ok {
		return nil, fmt.Errorf("no RSA-PSS with %v", opts.Hash)
	}
	// As long as the hash is what every token takes and every verifier expects.
	salt := uint(opts.Hash.Size())
	return &request{
		mechanism: func() []*p11.Mechanism {
			return []*p11.Mechanism{p11.NewMechanism(p11.CKM_RSA_PKCS_PSS, p11.NewPSSParams(p[0], p[1], salt))}
		},
		input: digest,
		finish: func(raw []byte) ([]byte, error) {
			return raw, rsa.VerifyPSS(pub, opts.Hash, digest, raw, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.Hash})
		},
	}, nil
}

func plain(mechanism uint) func() []*p11.Mechanism {
	return func() []*p11.Mechanism { return []*p11.Mechanism{p11.NewMechanism(mechanism, nil)} }
}

// perform makes the calls of one signature. The caller has entered the library
// and owns the session.
func (r *request) perform(t *Token, key foundKey, s p11.SessionHandle) ([]byte, error) {
	if err := t.module.api.SignInit(s, r.mechanism(), key.handle); err != nil {
		return nil, &callError{"C_SignInit", err}
	}
	if key.alwaysAuthenticate {
		// PKCS#11 v2.40, Section 4.9: with CKA_ALWAYS_AUTHENTICATE "the user has
		// to supply the PIN for each use": between the two calls, in this session.
		if err := t.login(s, p11.CKU_CONTEXT_SPECIFIC); err != nil {
			return nil, err
		}
	}
	raw, err := t.module.api.Sign(s, r.input)
	if err != nil {
		return nil, &callError{"C_Sign", err}
	}
	return raw, nil
}

// sign signs with a key of this token. What a new session or a new login may
// mend is tried once more for each; patient says that the caller has no other
// token to go to, so that it is worth waiting until this one is connected.
func (t *Token) sign(ctx context.Context, ref *keyRef, r *request, patient bool) ([]byte, error) {
	start := time.Now()
	var tried [len(classNames)]bool
	for pause := capacityPause; ; {
		sig, conn, err := t.signOnce(ctx, ref, r)
		if err == nil {
			conn.proven.Store(true)
			t.metrics.signing.Observe(time.Since(start).Seconds())
			return sig, nil
		}
		if !errors.Is(err, context.Canceled) {
			t.metrics.failed(err) // and not the caller who went away
		}
		c := classify(err)
		if conn != nil && c.broken() {
			t.broken(conn, err)
		}
		switch c {
		case classCaller, classConfig, classFatal, classHung:
			return nil, err
		case classCapacity:
			// Until ctx ends: it is the token that is busy, or somebody else at it.
			if !patient || !sleep(ctx, jitter(pause)) {
				return nil, err
			}
			pause = min(2*pause, maxCapacityPause)
			continue
		}
		if _, away := errors.AsType[*awayError](err); !away {
			if tried[c] {
				return nil, err
			}
			tried[c] = true
			if c == classSession {
				continue
			}
		}
		if !patient {
			return nil, err
		}
		if cause := t.await(ctx, conn); cause != nil {
			return nil, fmt.Errorf("%w (seen first: %w)", cause, err)
		}
	}
}

const (
	capacityPause    = 10 * time.Millisecond
	maxCapacityPause = 500 * time.Millisecond
)

// sleep waits, and reports whether it did for all of d.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (t *Token) signOnce(ctx context.Context, ref *keyRef, r *request) ([]byte, *connection, error) {
	raw, conn, err := t.inSession(ctx, ref, "signing", func(_ api, _ *connection, key foundKey, s p11.SessionHandle) ([]byte, error) {
		return r.perform(t, key, s)
	})
	if err != nil {
		return nil, conn, err
	}
	sig, err := r.finish(raw)
	if err != nil {
		t.metrics.bad.Inc()
		t.log.Error("a signature of the token is wrong and was thrown away", "key", ref.name, "err", err)
		return nil, conn, fault(classDevice, "the token returned a wrong signature: %w", err)
	}
	return sig, conn, nil
}

// awaitAttempts is how many attempts to connect a signature waits for: the first
// begins at once, the second after a moment. Who finds a token that is away for
// longer is told so, and Ready turns away those after him.
const awaitAttempts = 2

// await waits for a connection other than the one that failed, and returns why
// there is none.
func (t *Token) await(ctx context.Context, failed *connection) error {
	for range awaitAttempts {
		t.mu.Lock()
		if t.conn != nil && t.conn != failed {
			t.mu.Unlock()
			return nil
		}
		if t.closed || t.cause != nil && classify(t.cause) == classFatal {
			defer t.mu.Unlock()
			return t.availableLocked()
		}
		attempt := t.healed
		t.mu.Unlock()
		t.wake()
		select {
		case <-attempt:
		case <-ctx.Done():
			return &classError{classHung, fmt.Errorf("waiting for a new connection: %w", ctx.Err())}
		}
	}
	return t.available()
}
