package oidc

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// cacheVersion is that of the file's format; another one is not read.
const cacheVersion = 1

// maxCacheBytes: base64 of the largest key set, and the frame around it.
const maxCacheBytes = 2 * maxBodyBytes

// cached is the file that keeps the last good keys of one issuer. It is as
// trusted as the configuration: whoever can write to CacheDir can make tokens.
// The checksum is against disks, not people.
type cached struct {
	Version   int       `json:"version"`
	Issuer    string    `json:"issuer"`
	Source    string    `json:"source"`
	FetchedAt time.Time `json:"fetchedAt"`
	// Keys is a JWK set of the usable keys: what a provider publishes by mistake
	// is not spread further.
	Keys     []byte `json:"keys"`
	Checksum string `json:"checksum"`
}

// checksum is SHA-256 over the fields, each but the last with a zero byte behind
// it, which none of them can contain.
func (c *cached) checksum() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\x00%s\x00%s\x00%s\x00", c.Version, c.Issuer, c.Source, c.FetchedAt.UTC().Format(time.RFC3339Nano))
	h.Write(c.Keys)
	return hex.EncodeToString(h.Sum(nil))
}

// cacheFile returns where the keys of is are kept. Names and URLs may have
// characters that file systems see differently; a hash has not.
func (is *issuer) cacheFile() string {
	sum := sha256.Sum256([]byte(is.URL))
	return filepath.Join(is.cacheDir, "keys-"+hex.EncodeToString(sum[:16])+".json")
}

// save keeps a snapshot in place of the one before it. That it cannot is no
// reason to do without the keys; but a key that was withdrawn must not come back
// with an old file at the next start, and then no file is better.
func (is *issuer) save(old, snap *snapshot) {
	if is.cacheDir == "" {
		return
	}
	err := is.write(snap)
	if err == nil {
		return
	}
	if old != nil && len(without(old.thumbprints(), snap.thumbprints())) > 0 {
		if gone := os.Remove(is.cacheFile()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("withdrawn keys stay on disk: %w", gone))
		}
	}
	is.metrics.cacheFailed(is.Name)
	is.log.Warn("keeping issuer keys on disk failed", "issuer", is.Name, "err", err)
}

func (is *issuer) write(snap *snapshot) error {
	raws := make([]json.RawMessage, 0, len(snap.keys))
	for _, k := range snap.keys {
		raws = append(raws, k.raw)
	}
	set, err := json.Marshal(map[string]any{"keys": raws})
	if err != nil {
		return fmt.Errorf("encoding keys: %w", err)
	}
	c := cached{Version: cacheVersion, Issuer: is.URL, Source: is.source(), FetchedAt: snap.fetchedAt.UTC(), Keys: set}
	c.Checksum = c.checksum()
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding keys: %w", err)
	}
	if err := os.MkdirAll(is.cacheDir, 0o700); err != nil {
		return err
	}
	// CreateTemp makes files of mode 0600. The name is new at once and as a
	// whole; which of two versions a crash leaves does not matter.
	tmp, err := os.CreateTemp(is.cacheDir, ".keys-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // after the renaming there is nothing to remove
	_, err = tmp.Write(text)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), is.cacheFile())
}

// Load reads the keys that an earlier process has kept in CacheDir, for issuers
// that have none yet, so that tokens can be verified before any provider was
// asked. [Verifier.Run] does the same; calling Load first makes it happen before
// the first request. Files that are missing, too old or of another source are
// passed over; those that are damaged are too, and are told of in the error,
// which is for the log: there is nothing in it that must keep a service from
// starting.
func (v *Verifier) Load() error {
	var errs []error
	for _, is := range v.issuers {
		if err := is.load(); err != nil {
			errs = append(errs, fmt.Errorf("oidc: reading kept keys of issuer %s: %w", is.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (is *issuer) load() error {
	if is.cacheDir == "" || is.keys.Load() != nil {
		return nil
	}
	c, err := readCached(is.cacheFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	now := is.clock()
	age := now.Sub(c.FetchedAt)
	switch {
	case c.Issuer != is.URL || c.Source != is.source():
		is.log.Info("kept issuer keys are from another source", "issuer", is.Name, "source", c.Source)
		return nil
	case age >= is.MaxStale:
		is.log.Info("kept issuer keys are too old", "issuer", is.Name, "fetched_at", c.FetchedAt)
		return nil
	case age < -is.ClockSkew:
		// By a wrong clock they would stay fresh for as long as it was wrong.
		return fmt.Errorf("fetched at %v, which is in the future", c.FetchedAt)
	}
	keys, err := parseKeySet(c.Keys)
	if err != nil {
		return err
	}
	snap := &snapshot{keySet: keys, generation: 1, fetchedAt: c.FetchedAt}
	if is.keys.CompareAndSwap(nil, snap) {
		is.metrics.refreshed(is.Name, snap.fetchedAt, len(keys.keys))
		is.log.Info("using kept issuer keys", "issuer", is.Name, "fetched_at", c.FetchedAt, "keys", keys.thumbprints())
	}
	return nil
}

// readCached reads a file that nobody else may have written.
func readCached(name string) (*cached, error) {
	// Opening a pipe would block, and following a link would read what somebody
	// else points us to.
	st, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s is not a regular file that only its owner can write (mode %v)", name, st.Mode())
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(file, maxCacheBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxCacheBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxCacheBytes)
	}
	c, err := parseCached(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func parseCached(text []byte) (*cached, error) {
	c := &cached{}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil || dec.More() {
		return nil, errors.New("not a file of kept keys")
	}
	if c.Version != cacheVersion || c.Checksum != c.checksum() {
		return nil, errors.New("damaged or of another version")
	}
	return c, nil
}
