package ceremony

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Order returns the path that a set of certificates holds, issuing certificate
// first, and those that are not in it. The issuing certificate is the one for
// the key, or, without one, the only one that issued no other. The path ends
// where the set does: whether that is at a root, [ca.Inspect] tells.
//
// Where an issuer is there twice, self-signed and cross-signed, the path takes
// the self-signed one, so that it ends there.
func Order(certs []*x509.Certificate, public crypto.PublicKey) (path, rest []*x509.Certificate, err error) {
	var set []*x509.Certificate
	for _, c := range certs {
		if !slices.ContainsFunc(set, c.Equal) {
			set = append(set, c)
		}
	}
	first, err := issuingOf(set, public)
	if err != nil {
		return nil, nil, err
	}
	path = []*x509.Certificate{first}
	for !issued(path[len(path)-1], path[len(path)-1]) {
		parent := parentOf(set, path)
		if parent == nil {
			break
		}
		path = append(path, parent)
	}
	for _, c := range set {
		if !slices.Contains(path, c) {
			rest = append(rest, c)
		}
	}
	return path, rest, nil
}

// issuingOf finds where the path begins.
func issuingOf(set []*x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	var found []*x509.Certificate
	for _, c := range set {
		if public != nil {
			if samePublicKey(public, c.PublicKey) {
				found = append(found, c)
			}
			continue
		}
		if !slices.ContainsFunc(set, func(child *x509.Certificate) bool { return child != c && issued(c, child) }) {
			found = append(found, c)
		}
	}
	switch {
	case len(set) == 0:
		return nil, errors.New("there is no certificate")
	case len(found) == 0 && public != nil:
		return nil, fmt.Errorf("no certificate is for this key; there are: %s", subjects(set))
	case len(found) == 0:
		return nil, fmt.Errorf("the certificates issue each other in a circle: %s", subjects(set))
	case len(found) > 1:
		return nil, fmt.Errorf("more than one could be the issuing certificate: %s; leave out the others or name the key", subjects(found))
	}
	return found[0], nil
}

// parentOf finds the issuer of the last certificate of a path, a self-signed
// one rather than another.
func parentOf(set, path []*x509.Certificate) *x509.Certificate {
	var parent *x509.Certificate
	for _, c := range set {
		if !slices.Contains(path, c) && issued(c, path[len(path)-1]) && (parent == nil || issued(c, c)) {
			parent = c
		}
	}
	return parent
}

// issued reports that parent signed child. A signature with an algorithm that
// is not verified any more counts: the path is what it is, and a judge of it
// comes later.
func issued(parent, child *x509.Certificate) bool {
	if !bytes.Equal(parent.RawSubject, child.RawIssuer) {
		return false
	}
	err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature)
	_, weak := errors.AsType[x509.InsecureAlgorithmError](err)
	return err == nil || weak || errors.Is(err, x509.ErrUnsupportedAlgorithm)
}

func subjects(certs []*x509.Certificate) string {
	var names []string
	for _, c := range certs {
		names = append(names, strconv.Quote(ShowName(c.RawSubject)))
	}
	return strings.Join(names, ", ")
}

// EncodeChain returns certificates as a chain file holds them.
func EncodeChain(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}
