package rfc6962_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/rfc6962"
)

func (w *world) clientRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(w.clients.cert)
	return pool
}

// clientFiles writes a client certificate and its key.
func (w *world) clientFiles(t testing.TB, name string) (cert, key string) {
	t.Helper()
	made := w.clients.tlsCertificate(t, name, x509.ExtKeyUsageClientAuth, time.Now().Add(time.Hour))
	der, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	for file, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: made.Certificate[0]},
		key:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// Many submitters at once: each gets an SCT that it can verify, over an entry of
// its own. ctlog.Remote has verified it when it returns.
func TestRemotesSubmitAtOnce(t *testing.T) {
	// A busy machine may be slow; that is not what this is about.
	const patience = 30 * time.Second
	w := newWorld(t, func(_ *world, c *rfc6962.Config) { c.Timeout = patience })
	const submitters, each = 64, 4
	cert, key := w.clientFiles(t, "replica")
	var submissions [submitters][each]ctlog.Submission
	for i := range submissions {
		for j := range submissions[i] {
			s, err := ctlog.NewSubmission(w.issuing.precertificate(t, nil), w.issuing.chain(nil)[1:])
			if err != nil {
				t.Fatal(err)
			}
			submissions[i][j] = s
		}
	}
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{
		Name: "test", URL: w.server.URL, PublicKey: w.keyPEM(), RootCAs: w.clientRoots(),
		ClientCertFile: cert, ClientKeyFile: key, AttemptTimeout: patience, Timeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[int64]bool{}
	var all sync.WaitGroup
	for i := range submissions {
		all.Go(func() {
			for _, s := range submissions[i] {
				sct, err := r.Submit(t.Context(), s)
				if err != nil {
					t.Errorf("submitter %d: %v", i, err)
					return
				}
				mu.Lock()
				if seen[sct.Index] {
					t.Errorf("submitter %d: index %d was given twice", i, sct.Index)
				}
				seen[sct.Index] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(seen) != submitters*each {
		t.Errorf("got %d indices, want %d", len(seen), submitters*each)
	}
}
