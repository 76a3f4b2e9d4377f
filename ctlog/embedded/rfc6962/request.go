package rfc6962

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// MaxBody is the longest request body, in bytes.
	MaxBody = 512 << 10
	// maxChain is how many certificates a submission may have, its own included.
	maxChain = 10
)

// parseChain reads the body of add-chain and add-pre-chain.
//
//	// RFC 6962, Section 4.1
//	chain:  An array of base64-encoded certificates. The first element is the
//	   end-entity certificate; the second chains to the first and so on to the
//	   last, which is either the root certificate or a certificate that chains
//	   to a known root certificate.
//
// A member that the RFC does not know, or the same one twice, is refused: two
// readers of such a body need not agree on what was submitted. encoding/json by
// itself takes the last of two members and folds the case of their names.
func parseChain(body io.Reader) ([][]byte, error) {
	d := json.NewDecoder(body)
	if err := expect(d, json.Delim('{')); err != nil {
		return nil, err
	}
	var chain [][]byte
	seen := false
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch {
		case name != "chain":
			return nil, errors.New("unknown member; want \"chain\" alone")
		case seen:
			return nil, errors.New("member \"chain\" given twice")
		}
		seen = true
		if chain, err = parseCertificates(d); err != nil {
			return nil, err
		}
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, err
		}
		return nil, errors.New("data after the object")
	}
	if len(chain) == 0 {
		return nil, errors.New("cert chain was empty")
	}
	return chain, nil
}

func parseCertificates(d *json.Decoder) ([][]byte, error) {
	if err := expect(d, json.Delim('[')); err != nil {
		return nil, err
	}
	var chain [][]byte
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		text, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("certificate %d is not a string", len(chain))
		}
		if len(chain) == maxChain {
			return nil, fmt.Errorf("more than %d certificates", maxChain)
		}
		// The decoder passes over line breaks, Strict or not.
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || strings.ContainsAny(text, "\r\n") {
			return nil, fmt.Errorf("certificate %d is not base64", len(chain))
		}
		chain = append(chain, der)
	}
	return chain, expect(d, json.Delim(']'))
}

func expect(d *json.Decoder, want json.Delim) error {
	token, err := d.Token()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("found %T where %v belongs", token, want)
	}
	return nil
}
