package ca_test

import (
	"bytes"
	"encoding/base64"
)

// keyForms are the encodings of a public key that stock clients send.
func keyForms(der []byte) map[string][]byte {
	wrapped := pemOf("PUBLIC KEY", der)
	return map[string][]byte{
		"DER":                      der, // gitsign and others over the v1 API
		"PEM":                      wrapped,
		"PEM without last newline": bytes.TrimSpace(wrapped),
		"PEM with CRLF":            bytes.ReplaceAll(wrapped, []byte("\n"), []byte("\r\n")),
		// sigstore-java.
		"PEM unwrapped": []byte("-----BEGIN PUBLIC KEY-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END PUBLIC KEY-----"),
	}
}
