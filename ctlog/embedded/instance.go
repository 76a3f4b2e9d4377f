package embedded

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
)

// What lies in a log's directory. Only tree holds what the world may read.
const (
	keyFile       = "log.key"
	publicKeyFile = "log.pub"
	instanceFile  = "instance.json"
	lockFile      = "lock"
	treeDir       = "tree"
	sequenceDir   = "sequence"
)

// A log of version 1 was written by Tessera; opening it makes it one of version
// 2, which has a sequence file.
const (
	tesseraVersion  = 1
	instanceVersion = 2
)

// maxSmallFile bounds what is read of files that are small by nature.
const maxSmallFile = 64 << 10

// instance is the content of instance.json: what makes a directory this log and
// no other.
type instance struct {
	Version  int       `json:"version"`
	Origin   string    `json:"origin"`
	Instance string    `json:"instance"`
	LogID    string    `json:"log_id"`
	Created  time.Time `json:"created"`
	// Activate, Frozen and Key came later; a log without them is as before.
	Activate time.Time       `json:"activate,omitzero"`
	Frozen   time.Time       `json:"frozen,omitzero"`
	Key      json.RawMessage `json:"key,omitempty"`
}

// checkOrigin refuses origins that clients would spell differently from us.
//
// static-ct-api: "The origin line MUST be the submission prefix of the log as a
// schema-less URL with no trailing slashes."
func checkOrigin(origin string) error {
	switch {
	case origin == "":
		return errors.New("the origin is empty")
	case len(origin) > 255:
		return fmt.Errorf("the origin has %d bytes, at most 255", len(origin))
	case strings.Contains(origin, "://"):
		return fmt.Errorf("the origin %q has a scheme; write it without", origin)
	case strings.HasPrefix(origin, "/"), strings.HasSuffix(origin, "/"):
		return fmt.Errorf("the origin %q begins or ends with a slash", origin)
	}
	for _, c := range origin {
		// Upper case is out because monitors fold the origin before they compare.
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.ContainsRune("-._~:/[]", c) {
			continue
		}
		return fmt.Errorf("the origin %q may hold only a-z, 0-9 and - . _ ~ : / [ ]", origin)
	}
	return nil
}

// loadInstance reads instance.json and both keys, the private one from the
// directory unless it is given, and checks that they belong together. It writes
// nothing.
func loadInstance(dir string, key Signer) (instance, Signer, error) {
	in, err := readInstance(dir)
	if err != nil {
		return instance{}, nil, err
	}
	name := "the key given"
	if key == nil {
		name = keyFile
		if key, err = loadKey(filepath.Join(dir, keyFile)); err != nil {
			return instance{}, nil, err
		}
	} else if err := checkKey(key); err != nil {
		return instance{}, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return instance{}, nil, fmt.Errorf("encoding public key: %w", err)
	}
	if id := sha256.Sum256(spki); hex.EncodeToString(id[:]) != in.LogID {
		return instance{}, nil, fmt.Errorf("%s is the key of log %x, but %s is of log %s",
			name, id, instanceFile, in.LogID)
	}
	public, err := readSmall(filepath.Join(dir, publicKeyFile))
	if err != nil {
		return instance{}, nil, err
	}
	if block, _ := pem.Decode(public); block == nil || !bytes.Equal(block.Bytes, spki) {
		return instance{}, nil, fmt.Errorf("%s does not belong to %s", publicKeyFile, name)
	}
	return in, key, nil
}

// ErrNoLog says that a directory holds no log that was made to the end.
var ErrNoLog = errors.New("there is no initialised log")

func readInstance(dir string) (instance, error) {
	raw, err := readSmall(filepath.Join(dir, instanceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return instance{}, fmt.Errorf("%s: %w: %w", dir, ErrNoLog, err)
	}
	if err != nil {
		return instance{}, err
	}
	var in instance
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return instance{}, fmt.Errorf("reading %s: %w", instanceFile, err)
	}
	if in.Version != tesseraVersion && in.Version != instanceVersion {
		return instance{}, fmt.Errorf("%s has version %d, want %d or %d: the log was written by a later Mayfly",
			instanceFile, in.Version, tesseraVersion, instanceVersion)
	}
	if err := checkOrigin(in.Origin); err != nil {
		return instance{}, fmt.Errorf("reading %s: %w", instanceFile, err)
	}
	if id, err := hex.DecodeString(in.Instance); err != nil || len(id) != 16 || in.Created.IsZero() {
		return instance{}, fmt.Errorf("%s lacks an instance id or a time", instanceFile)
	}
	if !in.Frozen.IsZero() && in.Frozen.Before(in.Created) {
		return instance{}, fmt.Errorf("%s says that the log was frozen before it was made", instanceFile)
	}
	return in, nil
}

// id is the instance as the sequence file has it.
func (i instance) id() (id [16]byte) {
	b, _ := hex.DecodeString(i.Instance) // checked when it was read
	copy(id[:], b)
	return id
}

// write puts instance.json in place.
func (i instance) write(f disk.FS, dir string) error {
	raw, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return disk.Replace(f, filepath.Join(dir, treeDir, tempDir),
		disk.Content{Path: filepath.Join(dir, instanceFile), Data: append(raw, '\n'), Perm: 0o644})
}

// checkKey holds a key that is not ours to what clients accept.
func checkKey(key Signer) error {
	if public, ok := key.Public().(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		return errors.New("the key given is not ECDSA P-256, the only kind that clients accept")
	}
	return nil
}

func loadKey(path string) (Signer, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the log's key is gone, and without it this log is over: put %s back from a backup, "+
			"or make a new log: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading log key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("log key %s is open to others (mode %04o); it must be 0600", path, info.Mode().Perm())
	}
	raw, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("log key %s is not one PEM block PRIVATE KEY", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The parser's text could quote key material.
		return nil, fmt.Errorf("log key %s is not PKCS #8", path)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("log key %s is not ECDSA P-256, the only kind that clients accept", path)
	}
	return fileKey{key}, nil
}

// readSmall reads a file of at most maxSmallFile bytes.
func readSmall(path string) ([]byte, error) { return readLimited(path, maxSmallFile) }
