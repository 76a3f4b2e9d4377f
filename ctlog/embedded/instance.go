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
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What lies in a log's directory. Only tree holds what the world may read.
const (
	keyFile       = "log.key"
	publicKeyFile = "log.pub"
	instanceFile  = "instance.json"
	lockFile      = "lock"
	treeDir       = "tree"
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

// loadInstance reads instance.json and both keys and checks that they belong
// together. It writes nothing.
func loadInstance(dir string) (instance, *ecdsa.PrivateKey, error) {
	raw, err := readSmall(filepath.Join(dir, instanceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return instance{}, nil, fmt.Errorf("%s holds no initialised log: %w", dir, err)
	}
	if err != nil {
		return instance{}, nil, err
	}
	var in instance
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return instance{}, nil, fmt.Errorf("reading %s: %w", instanceFile, err)
	}
	if in.Version != 1 {
		return instance{}, nil, fmt.Errorf("%s has version %d, want 1", instanceFile, in.Version)
	}
	if err := checkOrigin(in.Origin); err != nil {
		return instance{}, nil, fmt.Errorf("reading %s: %w", instanceFile, err)
	}
	if len(in.Instance) != 32 || in.Created.IsZero() {
		return instance{}, nil, fmt.Errorf("%s lacks an instance id or a time", instanceFile)
	}
	key, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return instance{}, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return instance{}, nil, fmt.Errorf("encoding public key: %w", err)
	}
	if id := sha256.Sum256(spki); hex.EncodeToString(id[:]) != in.LogID {
		return instance{}, nil, fmt.Errorf("%s is the key of log %x, but %s is of log %s",
			keyFile, id, instanceFile, in.LogID)
	}
	public, err := readSmall(filepath.Join(dir, publicKeyFile))
	if err != nil {
		return instance{}, nil, err
	}
	if block, _ := pem.Decode(public); block == nil || !bytes.Equal(block.Bytes, spki) {
		return instance{}, nil, fmt.Errorf("%s does not belong to %s", publicKeyFile, keyFile)
	}
	return in, key, nil
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
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
	return key, nil
}

// readSmall reads a file of at most maxSmallFile bytes.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxSmallFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxSmallFile)
	}
	return raw, nil
}
