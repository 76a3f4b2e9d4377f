package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// readBody reads a request body within its limits of size and time.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		// RFC 9112, Section 9.3: "A server MUST read the entire request message body or
		// close the connection after sending its response". In HTTP/2 that is the
		// end of the stream alone.
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close")
		}
		return nil, ca.Refuse(ca.KindInvalid, ca.ReasonRequestTooLarge, "body of %d bytes, limit %d", r.ContentLength, maxBody)
	}
	var body bytes.Buffer
	// A length that was only promised is not worth more memory than most requests
	// need. ReadFrom wants room for one read beyond it.
	body.Grow(min(max(int(r.ContentLength), 0), 4<<10) + bytes.MinRead)
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		if r.ProtoMajor == 1 {
			// From here on the context keeps the deadline. net/http goes on reading to
			// notice when the client leaves, and would take the time-out for that.
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		}
		return body.Bytes(), nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, ca.Refuse(ca.KindInvalid, ca.ReasonRequestTooLarge, "body larger than %d bytes", maxBody)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, ca.Refuse(ca.KindUnavailable, ca.ReasonDeadline, "reading body: %w", err)
	}
	return nil, ca.Refuse(ca.KindInvalid, ca.ReasonRequestMalformed, "reading body: %w", err)
}

// decodeV2 reads the body of POST /api/v2/signingCert by the rules of proto3's
// JSON mapping: null is absent, bytes are base64 of either alphabet. Unknown
// members and unknown algorithms are passed over.
func decodeV2(body []byte) (input, error) {
	if in, ok := plainV2(body); ok {
		return in, nil
	}
	return decodeAnyV2(body)
}

func decodeAnyV2(body []byte) (input, error) {
	var req fulciov2.CreateSigningCertificateRequest
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &req); err != nil {
		return input{}, ca.Refuse(ca.KindInvalid, ca.ReasonRequestMalformed, "parsing body: %w", whyMalformed(body))
	}
	return inputV2(&req), nil
}

// whyMalformed says what is wrong with a body that protojson refused. The errors
// of protojson are not for a log: they quote whole strings, and the string in
// the wrong place may be the token. Those of encoding/json quote one character.
func whyMalformed(body []byte) error {
	var raw json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return err
	}
	return errors.New("JSON, but a member is of the wrong type, given twice, or excludes another")
}

func inputV2(req *fulciov2.CreateSigningCertificateRequest) input {
	return input{
		token:     req.GetCredentials().GetOidcIdentityToken(),
		csr:       req.GetCertificateSigningRequest(),
		publicKey: []byte(req.GetPublicKeyRequest().GetPublicKey().GetContent()),
		proof:     req.GetPublicKeyRequest().GetProofOfPossession(),
	}
}

// decodeV1 reads the body of POST /api/v1/signingCert:
//
//	{"publicKey": {"content": base64, "algorithm": string},
//	 "signedEmailAddress": base64, "certificateSigningRequest": base64}
//
// Any member may be null or absent, and others are passed over. As in Fulcio a
// signing request takes precedence over a key.
func decodeV1(body []byte) (input, error) {
	if in, ok := plainV1(body); ok {
		return in, nil
	}
	return decodeAnyV1(body)
}

func decodeAnyV1(body []byte) (input, error) {
	var (
		in  input
		key json.RawMessage
	)
	err := decodeObject(body, map[string]func(json.RawMessage) error{
		"publicKey":                 func(raw json.RawMessage) error { key = raw; return nil },
		"signedEmailAddress":        bytesInto(&in.proof),
		"certificateSigningRequest": bytesInto(&in.csr),
	})
	if err == nil && key != nil {
		err = decodeObject(key, map[string]func(json.RawMessage) error{"content": bytesInto(&in.publicKey)})
	}
	if err != nil {
		return input{}, ca.Refuse(ca.KindInvalid, ca.ReasonRequestMalformed, "parsing body: %w", err)
	}
	return in, nil
}

// decodeObject calls members for those of one JSON object, and nothing after it.
// encoding/json alone would match names in any case and let the last of two
// equal ones win; of two readings of a request the CA wants neither. A member
// that is null counts as absent.
func decodeObject(data []byte, members map[string]func(json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return errors.Join(errors.New("not an object"), err)
	}
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return fmt.Errorf("member name %v is no string", t)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		member, known := members[name]
		if !known {
			continue
		}
		if seen[name] {
			return fmt.Errorf("member %q twice", name)
		}
		seen[name] = true
		if string(value) == "null" {
			continue
		}
		if err := member(value); err != nil {
			return fmt.Errorf("member %q: %w", name, err)
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}

// bytesInto reads base64 as proto3's JSON mapping does: "Either standard or
// URL-safe base64 encoding with/without paddings are accepted."
func bytesInto(dst *[]byte) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return err
		}
		encoding := base64.RawStdEncoding
		if strings.ContainsAny(text, "-_") {
			encoding = base64.RawURLEncoding
		}
		decoded, err := encoding.DecodeString(strings.TrimRight(text, "="))
		if err != nil {
			return err
		}
		*dst = decoded
		return nil
	}
}
