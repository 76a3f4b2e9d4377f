package config

import (
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"
)

// pkcs11Scheme begins every URI of RFC 7512. What else such a URI says is checked
// by package pkcs11.
const pkcs11Scheme = "pkcs11:"

func (c *checker) tokens() {
	names := make(map[string]int)
	for i, t := range c.file.Tokens {
		at := index("tokens", i)
		c.name("tokens", i, t.Name, names)
		c.module(join(at, "module"), t.Module)
		described := t.Label != "" || t.Serial != "" || t.Manufacturer != "" || t.Model != ""
		switch {
		case t.URI != "" && described:
			c.bad(join(at, "uri"), "the URI takes the place of label, serial, manufacturer and model; remove it, or those")
		case t.URI != "":
			c.pkcs11URI(join(at, "uri"), t.URI)
		case !described:
			c.bad(at, "say which token it is: write its label and serial, or its uri; mayfly hsm list shows them")
		}
		if t.PINFile == "" {
			c.bad(join(at, "pin_file"), "required; name the file whose only line is the PIN")
		}
		if t.MaxSessions < 2 || t.MaxSessions > 1024 {
			c.bad(join(at, "max_sessions"), "%d is out of bounds; write a number from 2 to 1024", t.MaxSessions)
		}
	}
}

func (c *checker) module(key, path string) {
	switch {
	case path == "":
		c.bad(key, "required; name the vendor's PKCS#11 library by its absolute path")
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		c.bad(key, "%q is not an absolute path without dots; the library becomes part of the process, so write the whole path", clip(path))
	}
}

// pkcs11URI refuses above all what RFC 7512 allows and a configuration must not
// hold: Section 2.4 has pin-value for "the PIN in the URI itself".
func (c *checker) pkcs11URI(key, uri string) {
	switch {
	case !strings.HasPrefix(uri, pkcs11Scheme) || len(uri) == len(pkcs11Scheme):
		c.bad(key, "write a PKCS#11 URI such as pkcs11:token=mayfly;serial=1234; mayfly hsm list prints them")
	case strings.Contains(uri, "?"):
		c.bad(key, "what follows the ? is said by other keys here (pin_file, module), and a PIN must not be in the file; remove it")
	}
}

// maxID is longer than any CKA_ID in use.
const maxID = 64

// key checks where a key is said to be. What to do when nothing is said is
// missing; it is empty where a key need not be.
func (c *checker) key(at string, k Key, missing string) {
	onToken := k.Object != "" || k.ID != "" || k.URI != "" || k.AllowExtractable
	switch {
	case k.File != "" && len(k.Tokens) > 0:
		c.bad(join(at, "tokens"), "a key is in a file or on tokens; remove one of the two")
	case len(k.Tokens) > 0:
		c.tokenKey(at, k)
	case onToken:
		c.bad(join(at, "tokens"), "object, id, uri and allow_extractable are about keys on tokens; name those that hold the key, or remove these")
	case k.File != "":
	case k.PassphraseFile != "":
		c.bad(join(at, "file"), "required with %s; name the PEM file with the private key", join(at, "passphrase_file"))
	case missing != "":
		c.bad(at, "%s", missing)
	}
	if k.File != "" && k.File == k.PassphraseFile {
		c.bad(join(at, "passphrase_file"), "this is the key file itself; name the file that holds the passphrase")
	}
}

func (c *checker) tokenKey(at string, k Key) {
	if k.PassphraseFile != "" {
		c.bad(join(at, "passphrase_file"), "a token has a PIN and no passphrase; remove this key")
	}
	c.unique(join(at, "tokens"), k.Tokens)
	for i, name := range k.Tokens {
		if name != "" && !slices.ContainsFunc(c.file.Tokens, func(t Token) bool { return t.Name == name }) {
			c.bad(index(join(at, "tokens"), i), "there is no token %q; add it under tokens, or correct the name", clip(name))
		}
	}
	switch {
	case k.URI != "" && (k.Object != "" || k.ID != ""):
		c.bad(join(at, "uri"), "the URI takes the place of object and id; remove it, or those")
	case k.URI != "":
		c.pkcs11URI(join(at, "uri"), k.URI)
	case k.Object == "" && k.ID == "":
		key := join(at, "object")
		if id := join(at, "id"); c.given(id) {
			key = id
		}
		c.bad(key, "say which key on the token it is: write object, id or both, or uri; mayfly hsm list shows them")
	}
	if id, err := hex.DecodeString(k.ID); err != nil || len(id) > maxID {
		c.bad(join(at, "id"), "%q is not an id; write up to %d bytes in hexadecimal, such as \"01\", in quotes", clip(k.ID), maxID)
	}
}
