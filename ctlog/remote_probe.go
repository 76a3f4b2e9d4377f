package ctlog

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	ct "github.com/google/certificate-transparency-go"
)

// Probe asks the log for what it last signed about its tree, and verifies that: a
// server that answers in the place of the log does not pass. A log that is read
// elsewhere, and nobody said where, is asked for its roots, which shows only that
// it answers; so does one whose monitoring URL cannot be reached. A log that has
// nothing to read at all cannot be probed: the next submission tries it.
func (r *Remote) Probe(ctx context.Context) error {
	if err := r.probe(ctx); err != nil {
		return fmt.Errorf("probing log %q: %w", r.name, err)
	}
	return nil
}

func (r *Remote) probe(ctx context.Context) error {
	if r.monitoringURL != "" {
		_, checkpoint, err := r.get(ctx, r.monitoringURL+"/checkpoint")
		if err != nil {
			// Where a log is read is often another server than where it takes
			// entries, and must not decide alone whether it does.
			return r.probeRoots(ctx)
		}
		return cmp.Or(tooLong(checkpoint), r.key.verifyCheckpoint(checkpoint))
	}
	// RFC 6962, Section 4.3.
	status, sth, err := r.get(ctx, r.url+"get-sth")
	if notThere(status) {
		return r.probeRoots(ctx)
	}
	return cmp.Or(err, tooLong(sth), r.key.verifySTH(sth))
}

// probeRoots asks for what RFC 6962, Section 4.7, has and static-ct-api as well. A
// proxy may let nothing but submissions through.
func (r *Remote) probeRoots(ctx context.Context) error {
	status, _, err := r.get(ctx, r.url+"get-roots")
	if notThere(status) {
		return nil
	}
	return err
}

func notThere(status int) bool {
	switch status {
	case http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}

func tooLong(body []byte) error {
	if len(body) > maxResponse {
		return fmt.Errorf("%w: answer of more than %d bytes", ErrUnavailable, maxResponse)
	}
	return nil
}

func (r *Remote) get(ctx context.Context, url string) (status int, body []byte, err error) {
	status, _, body, err = r.exchange(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if status != http.StatusOK {
		return status, nil, fmt.Errorf("%w: %s: HTTP %d", ErrUnavailable, url, status)
	}
	return status, body, nil
}

func (k *Key) verifySTH(body []byte) error {
	var answer ct.GetSTHResponse
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("decoding tree head: %w", err)
	}
	head, err := answer.ToSignedTreeHead()
	if err != nil {
		return fmt.Errorf("decoding tree head: %w", err)
	}
	if _, err := k.digitallySigned(answer.TreeHeadSignature); err != nil {
		return fmt.Errorf("verifying tree head: %w", err)
	}
	if err := k.verifier.VerifySTHSignature(*head); err != nil {
		return fmt.Errorf("verifying tree head: %w", err)
	}
	return nil
}

// verifyCheckpoint looks for the log's signature in a static-ct-api checkpoint.
//
//	<origin>\n<tree size>\n<root hash, base64>\n
//	\n
//	— <origin> <key id (4) || RFC6962NoteSignature, base64>\n
//
//	struct {
//	    uint64 timestamp;
//	    TreeHeadSignature signature;
//	} RFC6962NoteSignature;
func (k *Key) verifyCheckpoint(note []byte) error {
	text, signatures, ok := bytes.Cut(note, []byte("\n\n"))
	lines := strings.Split(string(text), "\n")
	if !ok || len(lines) != 3 {
		return errors.New("verifying checkpoint: not three lines and signatures")
	}
	origin := lines[0]
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil {
		return fmt.Errorf("verifying checkpoint: tree size: %w", err)
	}
	head := ct.SignedTreeHead{Version: ct.V1, TreeSize: size}
	if err := head.SHA256RootHash.FromBase64String(lines[2]); err != nil {
		return fmt.Errorf("verifying checkpoint: root hash: %w", err)
	}
	// A note names its keys by the start of a hash; 0x05 is the algorithm of
	// RFC 6962, and the key is given as the log id.
	id := sha256.Sum256(fmt.Appendf(nil, "%s\n\x05%s", origin, k.id[:]))
	for line := range strings.Lines(string(signatures)) {
		encoded, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "— "+origin+" ")
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(raw) < 12 || !bytes.Equal(raw[:4], id[:4]) {
			continue // of a witness
		}
		signature, err := k.digitallySigned(raw[12:])
		if err != nil {
			return fmt.Errorf("verifying checkpoint: %w", err)
		}
		head.Timestamp, head.TreeHeadSignature = binary.BigEndian.Uint64(raw[4:12]), ct.DigitallySigned(signature)
		if err := k.verifier.VerifySTHSignature(head); err != nil {
			return fmt.Errorf("verifying checkpoint: %w", err)
		}
		return nil
	}
	return errors.New("verifying checkpoint: no signature of the log")
}
