package ca

import (
	"math/bits"

	encodingasn1 "encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxHeader is the most that tag and length of an element take up whose content
// is shorter than 16 MiB; more would only mean one more growth of a buffer.
const maxHeader = 5

// enclose makes what b holds from start on the content of a DER element: it
// moves it by as much as tag and length need. A certificate is written into one
// buffer like this, from the inside of each element to the outside, so that no
// length is ever computed before its content is there.
//
// X.690, Section 10.1: "The definite form of length encoding shall be used,
// encoded in the minimum number of octets."
func enclose(b []byte, start int, tag asn1.Tag) []byte {
	n := len(b) - start
	header := append(make([]byte, 0, 2+8), byte(tag))
	if n < 0x80 {
		header = append(header, byte(n))
	} else {
		octets := (bits.Len(uint(n)) + 7) / 8
		header = append(header, 0x80|byte(octets))
		for shift := 8 * (octets - 1); shift >= 0; shift -= 8 {
			header = append(header, byte(n>>shift))
		}
	}
	b = append(b, header...) // makes room; what it says is overwritten
	copy(b[start+len(header):], b[start:start+n])
	copy(b[start:], header)
	return b
}

// appendElement appends an element with that content.
func appendElement(b []byte, tag asn1.Tag, content []byte) []byte {
	start := len(b)
	return enclose(append(b, content...), start, tag)
}

// appendString is appendElement for a string.
func appendString(b []byte, tag asn1.Tag, content string) []byte {
	start := len(b)
	return enclose(append(b, content...), start, tag)
}

// extensionStart remembers where an extension and its value start.
type extensionStart struct{ extension, value int }

// openExtension begins an extension:
//
//	Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
//
// What is appended until closeExtension is the content of extnValue.
func openExtension(b, oid []byte, critical bool) ([]byte, extensionStart) {
	at := extensionStart{extension: len(b)}
	b = append(b, oid...)
	if critical {
		b = append(b, byte(asn1.BOOLEAN), 1, 0xff)
	}
	at.value = len(b)
	return b, at
}

func closeExtension(b []byte, at extensionStart) []byte {
	b = enclose(b, at.value, asn1.OCTET_STRING)
	return enclose(b, at.extension, asn1.SEQUENCE)
}

// appendExtension appends an extension whose value is there already.
func appendExtension(b, oid []byte, critical bool, value []byte) []byte {
	b, at := openExtension(b, oid, critical)
	return closeExtension(append(b, value...), at)
}

// derOID returns the DER of one of the constant identifiers of this package.
func derOID(oid encodingasn1.ObjectIdentifier) []byte {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	return b.BytesOrPanic()
}
