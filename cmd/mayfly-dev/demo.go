package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	ctx509 "github.com/google/certificate-transparency-go/x509"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// demoUser signs in.
const demoUser = "alice@demo.mayfly.test"

// demoTimeout bounds the whole demonstration.
const demoTimeout = time.Minute

// runDemo goes the whole way once: it believes nothing that the service says and
// verifies everything against the root and the log key in the state directory.
func runDemo(ctx context.Context, out io.Writer, s settings) (err error) {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	w, err := startWorld(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	d := &demo{world: w, out: out}
	fmt.Fprintf(out, "Mayfly on loopback: CA and log at %s, OpenID provider at %s\n\n", w.url, w.issuer)
	for i, step := range []func(context.Context) (string, error){
		d.showPKI, d.signIn, d.obtain, d.signFile, d.verifySignature, d.verifyChain, d.verifySCT, d.verifyInclusion,
	} {
		told, err := step(ctx)
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		fmt.Fprintf(out, "%d. %s\n", i+1, strings.ReplaceAll(told, "\n", "\n     "))
	}
	printNext(out, s)
	return nil
}

// demo is what one step leaves for the next.
type demo struct {
	*world
	out       io.Writer
	issuing   *x509.Certificate
	root      *x509.Certificate
	token     string
	key       *ecdsa.PrivateKey
	cert      *x509.Certificate
	file      []byte
	signature []byte
	sct       ctlog.SCT
	entry     ctlog.Submission
	logKey    []byte
}

func (d *demo) showPKI(context.Context) (string, error) {
	data, err := os.ReadFile(filepath.Join(d.settings.state, chainFile))
	if err != nil {
		return "", err
	}
	certs, err := ca.ParseChain(data)
	if err != nil {
		return "", err
	}
	d.issuing, d.root = certs[0], certs[len(certs)-1]
	return fmt.Sprintf("The organization's PKI: %q issues, below %q.\nThe issuing key is in %s; the root's was thrown away", d.issuing.Subject.CommonName, d.root.Subject.CommonName, d.settings.state), nil
}

func (d *demo) signIn(ctx context.Context) (string, error) {
	var err error
	if d.token, err = d.provider.SignIn(ctx, nil, demoUser); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s signed in at the login page (authorization code with PKCE)\nand holds an ID token of %d bytes", demoUser, len(d.token)), nil
}

func (d *demo) obtain(ctx context.Context) (string, error) {
	var err error
	if d.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(d.key.Public())
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(demoUser))
	proof, err := ecdsa.SignASN1(rand.Reader, d.key, digest[:])
	if err != nil {
		return "", err
	}
	chain, err := requestCertificate(ctx, d.url, d.token, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), proof)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode([]byte(chain[0]))
	if block == nil {
		return "", errors.New("the certificate is not PEM")
	}
	if d.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return "", err
	}
	return fmt.Sprintf("An ephemeral P-256 key was made and proven, and has a certificate:\nidentity    %s\nissuer      %s\nvalid       %s to %s (%v)\nserial      %x",
		strings.Join(d.cert.EmailAddresses, ", "), extension(d.cert, 8), d.cert.NotBefore.Format(time.DateTime),
		d.cert.NotAfter.Format(time.TimeOnly+" MST"), d.cert.NotAfter.Sub(d.cert.NotBefore), d.cert.SerialNumber), nil
}

// extension reads a 57264.1 extension that holds a UTF8String.
func extension(cert *x509.Certificate, n int) string {
	for _, e := range cert.Extensions {
		var text string
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}) {
			if _, err := asn1.Unmarshal(e.Value, &text); err == nil {
				return text
			}
		}
	}
	return "(none)"
}

func (d *demo) signFile(context.Context) (string, error) {
	path := filepath.Join(d.settings.state, "hello.txt")
	d.file = []byte("Signed by a key that lived for a second.\n")
	if err := os.WriteFile(path, d.file, 0o600); err != nil {
		return "", err
	}
	digest := sha256.Sum256(d.file)
	var err error
	if d.signature, err = ecdsa.SignASN1(rand.Reader, d.key, digest[:]); err != nil {
		return "", err
	}
	d.key = nil // that was its whole life
	return fmt.Sprintf("%s is signed, and the private key is forgotten", path), nil
}

func (d *demo) verifySignature(context.Context) (string, error) {
	if err := d.cert.CheckSignature(x509.ECDSAWithSHA256, d.file, d.signature); err != nil {
		return "", fmt.Errorf("verifying the file's signature: %w", err)
	}
	return "The file's signature verifies with the certificate's key", nil
}

func (d *demo) verifyChain(context.Context) (string, error) {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(d.root)
	intermediates.AddCert(d.issuing)
	if _, err := d.cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}); err != nil {
		return "", fmt.Errorf("verifying the chain: %w", err)
	}
	return fmt.Sprintf("The certificate chains to the root %q for code signing", d.root.Subject.CommonName), nil
}

// verifySCT takes the SCT out of the certificate and verifies it over what the
// log must have seen: the certificate without the SCT.
func (d *demo) verifySCT(context.Context) (string, error) {
	var err error
	if d.logKey, err = os.ReadFile(filepath.Join(stack.LogDir(d.settings.state, logName), logKeyFile)); err != nil {
		return "", err
	}
	tbs, err := ctx509.RemoveSCTList(d.cert.RawTBSCertificate)
	if err != nil {
		return "", fmt.Errorf("taking the SCT out of the certificate: %w", err)
	}
	d.entry = ctlog.Submission{TBS: tbs, IssuerKeyHash: sha256.Sum256(d.issuing.RawSubjectPublicKeyInfo)}
	if d.sct, err = embeddedSCT(d.cert); err != nil {
		return "", err
	}
	key, err := ctlog.ParseKey(d.logKey)
	if err != nil {
		return "", err
	}
	if err := key.VerifySCT(d.entry, d.sct, time.Now()); err != nil {
		return "", err
	}
	return fmt.Sprintf("The embedded SCT verifies with the log's key:\nlog         %x\ntime        %s", d.sct.LogID, d.sct.Timestamp.UTC().Format("2006-01-02 15:04:05.000 MST")), nil
}

func (d *demo) verifyInclusion(ctx context.Context) (string, error) {
	if err := embedded.VerifyInclusion(ctx, d.url+stack.LogPath(logName), nil, d.logKey, logOrigin, d.sct, d.entry); err != nil {
		return "", err
	}
	return fmt.Sprintf("The log holds the certificate: log index %d, proven from the log's tiles\nagainst its signed checkpoint", d.sct.Index), nil
}
