package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/youmark/pkcs8"
)

// convertHint is the way out of every encryption that is refused here.
const convertHint = "convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in OLD.pem -out NEW.pem"

// ReadSecretLine reads a passphrase or PIN: the only line of a file that nobody
// but its owner may reach. what names the file in errors. Editors and echo end
// files with a newline; openssl's -pass file: drops it as well. The caller clears
// what it gets.
func ReadSecretLine(what, path string) ([]byte, error) {
	text, err := readSecret(what, path, maxPassphraseFile)
	if err != nil {
		return nil, err
	}
	line := bytes.TrimSuffix(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("%s %s is empty", what, path)
	case bytes.IndexByte(line, '\n') >= 0:
		clear(text)
		return nil, fmt.Errorf("%s %s has more than one line", what, path)
	}
	return line, nil
}

func readPassphrase(path string) ([]byte, error) { return ReadSecretLine("passphrase file", path) }

// parseKey returns the one private key in a PEM text.
func parseKey(text, passphrase []byte) (crypto.Signer, error) {
	block, err := soleKeyBlock(text)
	if err != nil {
		return nil, err
	}
	// RFC 1421 encryption derives the key with one round of MD5, and its
	// padding is the only integrity check that it has.
	if block.Headers["DEK-Info"] != "" || block.Headers["Proc-Type"] != "" {
		return nil, fmt.Errorf("legacy PEM encryption (DEK-Info) is refused: %s", convertHint)
	}
	encrypted := block.Type == "ENCRYPTED PRIVATE KEY"
	switch {
	case encrypted && len(passphrase) == 0:
		return nil, errors.New("the key is encrypted and no passphrase file is given")
	case !encrypted && len(passphrase) != 0:
		return nil, errors.New("a passphrase file is given but the key is not encrypted: encrypt it or drop the passphrase file")
	}
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		key, err = decrypt(block.Bytes, passphrase)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		return key, nil
	default:
		return nil, fmt.Errorf("%T is not supported: use ECDSA on P-256 or P-384, or RSA", key)
	}
}

// soleKeyBlock finds the private key. openssl ecparam writes an EC PARAMETERS
// block before it. Anything else in the file means that someone expected a
// different file: two keys, say, of which the wrong one would be taken.
func soleKeyBlock(text []byte) (*pem.Block, error) {
	var found *pem.Block
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		switch block.Type {
		case "EC PARAMETERS":
		case "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			if found != nil {
				return nil, errors.New("the file holds more than one private key")
			}
			found = block
		default:
			return nil, fmt.Errorf("the file holds a PEM block %q: a key file holds one private key and nothing else", block.Type)
		}
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, errors.New("the file holds a damaged PEM block")
	}
	if found == nil {
		return nil, errors.New("the file holds no PEM private key")
	}
	return found, nil
}

var (
	oidPBES2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	// aes-CBC-PAD of the three key sizes.
	oidsAESCBC = []asn1.ObjectIdentifier{
		{2, 16, 840, 1, 101, 3, 4, 1, 2}, {2, 16, 840, 1, 101, 3, 4, 1, 22}, {2, 16, 840, 1, 101, 3, 4, 1, 42},
	}
)

// decrypt opens a PKCS#8 EncryptedPrivateKeyInfo. The structure is checked
// first, because the library below trusts the lengths in it and panics.
func decrypt(der, passphrase []byte) (any, error) {
	if err := checkPBES2(der); err != nil {
		return nil, err
	}
	key, err := pkcs8.ParsePKCS8PrivateKey(der, passphrase)
	if err != nil {
		return nil, fmt.Errorf("decrypting the key (wrong passphrase, damaged file, or an unusual cipher: then %s): %w", convertHint, err)
	}
	return key, nil
}

// checkPBES2 demands PBES2 with AES in CBC mode.
//
//	EncryptedPrivateKeyInfo ::= SEQUENCE {          -- RFC 5958, Section 3
//	  encryptionAlgorithm  EncryptionAlgorithmIdentifier,
//	  encryptedData        OCTET STRING }
//	PBES2-params ::= SEQUENCE {                     -- RFC 8018, Appendix A.4
//	  keyDerivationFunc AlgorithmIdentifier,
//	  encryptionScheme  AlgorithmIdentifier }       -- parameters: the IV
func checkPBES2(der []byte) error {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) != 0 {
		return errors.New("the encrypted key is not a PKCS#8 EncryptedPrivateKeyInfo")
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return fmt.Errorf("encryption %v is refused, only PBES2 is accepted: %s", info.Algorithm.Algorithm, convertHint)
	}
	var params struct{ KDF, Scheme pkix.AlgorithmIdentifier }
	if rest, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &params); err != nil || len(rest) != 0 {
		return errors.New("the encrypted key has malformed PBES2 parameters")
	}
	aes := false
	for _, oid := range oidsAESCBC {
		aes = aes || params.Scheme.Algorithm.Equal(oid)
	}
	if !aes {
		return fmt.Errorf("cipher %v is refused, only AES in CBC mode is accepted: %s", params.Scheme.Algorithm, convertHint)
	}
	var iv []byte
	if rest, err := asn1.Unmarshal(params.Scheme.Parameters.FullBytes, &iv); err != nil || len(rest) != 0 || len(iv) != 16 {
		return errors.New("the encrypted key has a malformed IV")
	}
	if len(info.Data) == 0 || len(info.Data)%16 != 0 {
		return errors.New("the encrypted key is cut short")
	}
	return checkKDF(params.KDF)
}

var (
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
)

// checkKDF bounds the work that a key file can ask for: a mistyped count must
// not make a start-up that never ends or that eats the memory of the machine.
//
//	PBKDF2-params ::= SEQUENCE {                    -- RFC 8018, Appendix A.2
//	  salt OCTET STRING, iterationCount INTEGER, ... }
//	scrypt-params ::= SEQUENCE {                    -- RFC 7914, Section 7
//	  salt OCTET STRING, costParameter INTEGER, blockSize INTEGER,
//	  parallelizationParameter INTEGER, ... }
func checkKDF(kdf pkix.AlgorithmIdentifier) error {
	const maxIterations, maxScryptMemory = 20_000_000, 512 << 20
	switch {
	case kdf.Algorithm.Equal(oidPBKDF2):
		var p struct {
			Salt       []byte
			Iterations int
			KeyLength  int                      `asn1:"optional"`
			PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
		}
		if _, err := asn1.Unmarshal(kdf.Parameters.FullBytes, &p); err != nil {
			return errors.New("the encrypted key has malformed PBKDF2 parameters")
		}
		if p.Iterations < 1 || p.Iterations > maxIterations {
			return fmt.Errorf("PBKDF2 with %d iterations is refused: at most %d", p.Iterations, maxIterations)
		}
		return nil
	case kdf.Algorithm.Equal(oidScrypt):
		var p struct {
			Salt    []byte
			N, R, P int
		}
		if _, err := asn1.Unmarshal(kdf.Parameters.FullBytes, &p); err != nil {
			return errors.New("the encrypted key has malformed scrypt parameters")
		}
		if p.N < 2 || p.R < 1 || p.P < 1 || p.P > 16 || p.R > 1024 || p.N > maxScryptMemory/128/p.R {
			return fmt.Errorf("scrypt with N=%d r=%d p=%d is refused: at most %d bytes of memory", p.N, p.R, p.P, maxScryptMemory)
		}
		return nil
	default:
		return fmt.Errorf("key derivation %v is refused, only PBKDF2 and scrypt are accepted: %s", kdf.Algorithm, convertHint)
	}
}
