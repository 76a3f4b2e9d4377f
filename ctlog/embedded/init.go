package embedded

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// InitConfig says what log to make.
type InitConfig struct {
	// Dir is the log's directory. It may exist, but must be empty.
	Dir string
	// Origin names the log to the world: the URL of its read path without scheme
	// and without slash at the end, in lower case, such as
	// "ca.example.com/log/2026". It can never change.
	Origin string
	// Clock gives the time of creation. Default time.Now.
	Clock func() time.Time
}

// Info says what was made.
type Info struct {
	Origin string
	// InstanceID tells this log from any other made under the same origin.
	InstanceID string
	LogID      [32]byte
	// PublicKey is the DER of the log's SubjectPublicKeyInfo; PublicKeyFile holds
	// it as PEM.
	PublicKey     []byte
	PublicKeyFile string
	Created       time.Time
}

// Init makes a log: its key, its public key, its instance and its empty tree with
// a first checkpoint. It overwrites nothing. If it is interrupted, the directory
// holds no log that Open accepts, and must be emptied by hand.
func Init(ctx context.Context, c InitConfig) (Info, error) {
	info, err := initialise(ctx, c)
	if err != nil {
		return Info{}, fmt.Errorf("ctlog/embedded: initialising log: %w", err)
	}
	return info, nil
}

func initialise(ctx context.Context, c InitConfig) (_ Info, err error) {
	if c.Dir == "" {
		return Info{}, errors.New("no directory given")
	}
	if err := checkOrigin(c.Origin); err != nil {
		return Info{}, err
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return Info{}, err
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := checkEmpty(c.Dir); err != nil {
		return Info{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Info{}, fmt.Errorf("generating key: %w", err)
	}
	spki, err := writeKeys(c.Dir, key)
	if err != nil {
		return Info{}, err
	}
	info := Info{
		Origin:        c.Origin,
		LogID:         sha256.Sum256(spki),
		PublicKey:     spki,
		PublicKeyFile: filepath.Join(c.Dir, publicKeyFile),
		Created:       c.Clock().UTC().Truncate(time.Millisecond),
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	info.InstanceID = hex.EncodeToString(id)
	if err := plantTree(ctx, c, key, info); err != nil {
		return Info{}, fmt.Errorf("making the empty tree: %w", err)
	}
	raw, err := json.MarshalIndent(instance{
		Version:  1,
		Origin:   info.Origin,
		Instance: info.InstanceID,
		LogID:    hex.EncodeToString(info.LogID[:]),
		Created:  info.Created,
	}, "", "  ")
	if err != nil {
		return Info{}, err
	}
	// Written last: a directory without it is no log.
	if err := createDurably(filepath.Join(c.Dir, instanceFile), append(raw, '\n'), 0o644); err != nil {
		return Info{}, err
	}
	return info, syncDir(filepath.Dir(filepath.Clean(c.Dir)))
}

// checkEmpty allows what a fresh volume brings along.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockFile && e.Name() != "lost+found" {
			return fmt.Errorf("%s is not empty: it holds %s, and nothing is overwritten", dir, e.Name())
		}
	}
	return nil
}

func writeKeys(dir string, key *ecdsa.PrivateKey) (spki []byte, err error) {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding key: %w", err)
	}
	spki, err = x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	err = createDurably(filepath.Join(dir, keyFile),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
	if err != nil {
		return nil, err
	}
	err = createDurably(filepath.Join(dir, publicKeyFile),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o644)
	if err != nil {
		return nil, err
	}
	return spki, nil
}

// plantTree lets Tessera write its empty state and the checkpoint of size zero,
// so that Open can insist on finding both.
func plantTree(ctx context.Context, c InitConfig, key *ecdsa.PrivateKey, info Info) error {
	redirectKlog(discard)
	tree := filepath.Join(c.Dir, treeDir)
	if err := os.Mkdir(tree, 0o755); err != nil { //nolint:gosec // what is in it is public
		return err
	}
	if err := syncDir(c.Dir); err != nil {
		return err
	}
	p := &publisher{
		origin:        c.Origin,
		hash:          noteKeyHash(c.Origin, info.LogID),
		key:           key,
		clock:         &monotone{source: c.Clock},
		contradiction: func(error) {},
	}
	p.last.root = emptyRoot
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e, err := startEngine(ctx, tree, p, time.Second)
	if err != nil {
		return err
	}
	// Nothing was added, so there is nothing to wait for; no more checkpoints.
	p.close()
	return e.shutdown(ctx)
}
