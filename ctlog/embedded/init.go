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

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/sequence"
)

// InitConfig says what log to make.
type InitConfig struct {
	// Dir is the log's directory. It may exist, but must be empty.
	Dir string
	// Origin names the log to the world: the URL of its read path without scheme
	// and without slash at the end, in lower case, such as
	// "ca.example.com/log/2026". It can never change.
	Origin string
	// Key is the log's key, ECDSA P-256, if it shall not lie in Dir. Nil makes one
	// there. It must be given to Open then too.
	Key Signer
	// KeyPlace is JSON in which the caller says where Key is. It is kept for those
	// who open the log and has no meaning here.
	KeyPlace json.RawMessage
	// Activate is from when the log shall take entries, for those who have several;
	// zero is at once. The log itself does not look at it.
	Activate time.Time
	// Clock gives the time of creation. Default time.Now.
	Clock func() time.Time
}

// Info says which log a directory holds.
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
	// Activate and KeyPlace are as in InitConfig.
	Activate time.Time
	KeyPlace json.RawMessage
	// Frozen is when the log was made read-only for good; zero when it was not.
	Frozen time.Time
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
	key, spki, err := initKeys(c)
	if err != nil {
		return Info{}, err
	}
	info := Info{
		Origin:        c.Origin,
		LogID:         sha256.Sum256(spki),
		PublicKey:     spki,
		PublicKeyFile: filepath.Join(c.Dir, publicKeyFile),
		Created:       c.Clock().UTC().Truncate(time.Millisecond),
		KeyPlace:      c.KeyPlace,
	}
	if !c.Activate.IsZero() {
		info.Activate = c.Activate.UTC().Truncate(time.Millisecond)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	info.InstanceID = hex.EncodeToString(id)
	in := instance{
		Version:  instanceVersion,
		Origin:   info.Origin,
		Instance: info.InstanceID,
		LogID:    hex.EncodeToString(info.LogID[:]),
		Created:  info.Created,
		Activate: info.Activate,
		Key:      info.KeyPlace,
	}
	if err := plantTree(ctx, c, key, in, info.LogID); err != nil {
		return Info{}, fmt.Errorf("making the empty tree: %w", err)
	}
	// Written last: a directory without it is no log.
	if err := in.write(disk.OS{}, c.Dir); err != nil {
		return Info{}, err
	}
	return info, disk.OS{}.SyncDir(filepath.Dir(filepath.Clean(c.Dir)))
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

// initKeys makes the log's key, or takes the one given, and writes what of it
// belongs into the directory.
func initKeys(c InitConfig) (key Signer, spki []byte, err error) {
	if key = c.Key; key == nil {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, fmt.Errorf("generating key: %w", err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(made)
		if err != nil {
			return nil, nil, fmt.Errorf("encoding key: %w", err)
		}
		if err := writePEM(c.Dir, keyFile, "PRIVATE KEY", private, 0o600); err != nil {
			return nil, nil, err
		}
		key = fileKey{made}
	} else if err := checkKey(key); err != nil {
		return nil, nil, err
	}
	if spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, nil, fmt.Errorf("encoding public key: %w", err)
	}
	return key, spki, writePEM(c.Dir, publicKeyFile, "PUBLIC KEY", spki, 0o644)
}

func writePEM(dir, name, kind string, der []byte, perm os.FileMode) error {
	raw := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := disk.Create(disk.OS{}, disk.Content{Path: filepath.Join(dir, name), Data: raw, Perm: perm}); err != nil {
		return err
	}
	return disk.OS{}.SyncDir(dir)
}

// plantTree writes the checkpoint of the empty tree and the empty sequence file,
// so that Open can insist on finding both.
func plantTree(ctx context.Context, c InitConfig, key Signer, in instance, logID [32]byte) error {
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return errors.New("the log's key is not ECDSA")
	}
	dirs := disk.Dirs{FS: disk.OS{}, Root: c.Dir}
	if err := dirs.Make(filepath.Join(treeDir, tempDir)); err != nil {
		return err
	}
	p := newPublisher(disk.OS{}, filepath.Join(c.Dir, treeDir))
	p.verifier, p.key = newVerifier(c.Origin, logID, public), key
	p.clock = &monotone{source: c.Clock}
	p.last.root = emptyRoot
	if err := p.issue(ctx, p.last); err != nil {
		return err
	}
	return sequence.Create(disk.OS{}, filepath.Join(c.Dir, sequenceDir), in.id(), 0)
}
