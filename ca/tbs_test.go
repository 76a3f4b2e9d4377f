package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// stdTemplate is what crypto/x509 needs to make the same certificate as d.
func stdTemplate(t testing.TB, d *draft, last ...pkix.Extension) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(d.serial[:]), NotBefore: d.notBefore, NotAfter: d.notAfter,
		SignatureAlgorithm: d.chain.algorithm, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, SubjectKeyId: d.key.KeyID(),
	}
	switch d.san.kind {
	case SANEmail:
		template.EmailAddresses = []string{d.san.value}
	case SANURI:
		u, err := url.Parse(d.san.value)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	case SANUsername:
		template.ExtraExtensions = append(template.ExtraExtensions, usernameExtension(t, d.san.value))
	}
	template.ExtraExtensions = append(template.ExtraExtensions, optionalExtensions(t, d)...)
	for _, e := range d.extensions {
		value := []byte(e.Value)
		if e.Number > extLastRaw {
			var err error
			if value, err = asn1.MarshalWithParams(e.Value, "utf8"); err != nil {
				t.Fatal(err)
			}
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidFulcio(e.Number), Value: value})
	}
	template.ExtraExtensions = append(template.ExtraExtensions, last...)
	return template
}

// optionalExtensions encodes with encoding/asn1 what chain and profile ask for.
// crypto/x509 could write most of it by itself, but before the name.
func optionalExtensions(t testing.TB, d *draft) (list []pkix.Extension) {
	t.Helper()
	add := func(oid asn1.ObjectIdentifier, v any) {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, pkix.Extension{Id: oid, Value: der})
	}
	uri := func(s string) asn1.RawValue { return asn1.RawValue{Class: 2, Tag: 6, Bytes: []byte(s)} }
	if u := d.chain.caIssuersURL; u != "" {
		type access struct {
			Method   asn1.ObjectIdentifier
			Location asn1.RawValue
		}
		add(oidAIA, []access{{oidCAIssuers, uri(u)}})
	}
	if len(d.policies) > 0 {
		var all [][]asn1.ObjectIdentifier
		for _, p := range d.policies {
			var oid asn1.ObjectIdentifier
			for arc := range strings.SplitSeq(p.String(), ".") {
				n, err := strconv.Atoi(arc)
				if err != nil {
					t.Fatal(err)
				}
				oid = append(oid, n)
			}
			all = append(all, []asn1.ObjectIdentifier{oid})
		}
		add(oidPolicies, all)
	}
	if u := d.chain.crlURL; u != "" {
		type pointName struct {
			Full []asn1.RawValue `asn1:"optional,tag:0"`
		}
		type point struct {
			Name pointName `asn1:"optional,tag:0"`
		}
		add(oidCRLPoints, []point{{pointName{[]asn1.RawValue{uri(u)}}}})
	}
	if d.noRevAvail {
		add(oidNoRevAvail, asn1.NullRawValue)
	}
	return list
}

// usernameExtension encodes Fulcio's otherName with encoding/asn1.
func usernameExtension(t testing.TB, name string) pkix.Extension {
	t.Helper()
	other := struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"tag:0,explicit,utf8"`
	}{oidFulcio(extOtherName), name}
	inner, err := asn1.MarshalWithParams(other, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	value, err := asn1.Marshal([]asn1.RawValue{{FullBytes: inner}})
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidSAN, Critical: true, Value: value}
}

// compareWithStandardLibrary holds the encoder to x509.CreateCertificate.
func compareWithStandardLibrary(t testing.TB, d *draft, client any) {
	t.Helper()
	encoded, err := d.encode()
	if err != nil {
		t.Fatal(err)
	}
	ours := precertificate(encoded)
	signer := d.chain.signer.(*memSigner).Signer
	der, err := x509.CreateCertificate(rand.Reader, stdTemplate(t, d, pkix.Extension{Id: oidPoison, Critical: true, Value: asn1.NullBytes}),
		d.chain.issuing(), client, signer)
	if err != nil {
		t.Fatal(err)
	}
	std, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours, std.RawTBSCertificate) {
		t.Fatalf("to-be-signed bytes differ\nours %x\n std %x", ours, std.RawTBSCertificate)
	}
}

// FuzzEncoder is the differential test: for whatever may be decided, our bytes
// are those of x509.CreateCertificate, and the judge agrees.
func FuzzEncoder(f *testing.F) {
	f.Add([]byte{0x01}, "https://kc.corp.example/realms/eng", "alice", "alice@corp.example", "push", int64(1795339815), uint16(600))
	f.Add([]byte{0x7f}, "https://a.example", "s\"u|b/é", "https://ci.corp.example/job/x%20y", "", int64(2524607999), uint16(60))
	f.Add([]byte{0x20}, "https://kc.corp.example", "1234", "alice!corp.example", "push", int64(1795339815), uint16(600))
	f.Add([]byte{0x02}, "https://a.example", "b", "https://ci.corp.example/a", "", int64(1795339815), uint16(600*15+60))
	f.Add([]byte{0x03}, "https://a.example", "b", "alice!corp.example", "", int64(1795339815), uint16(600*15+60))
	f.Add([]byte{0x40, 0}, "x", "y", "spiffe://corp.example/w", "\x00\xff", int64(2524608000), uint16(1))
	client := p256(f)
	chain := newPKI(f, p256(f), func(root, inter *x509.Certificate) {
		root.NotBefore, inter.NotBefore = time.Unix(0, 0), time.Unix(0, 0)
		root.NotAfter, inter.NotAfter = time.Unix(4e9, 0), time.Unix(4e9, 0)
	}).chain(f)
	key := prove(f, client, testIdentity())
	f.Fuzz(func(t *testing.T, serial []byte, issuer, subject, name, raw string, start int64, seconds uint16) {
		san, err := EmailSAN(name)
		if err != nil {
			if san, err = URISAN(name); err != nil {
				user, domain, _ := strings.Cut(name, "!")
				if san, err = UsernameSAN(user, domain); err != nil {
					return
				}
			}
		}
		id := Identity{Issuer: issuer, Subject: subject}
		if issuer == "" || subject == "" || start < 0 || start > 3.9e9 || len(issuer)+len(subject)+len(raw) > 4000 {
			return
		}
		d := &draft{
			chain: chain, key: key, san: san, logged: true,
			notBefore: time.Unix(start, 0).UTC(), notAfter: time.Unix(start+1+int64(seconds)%600, 0).UTC(),
		}
		d.serial = newSerial()
		copy(d.serial[1:], serial)
		withOptional(t, d, int(seconds)/600)
		if d.extensions, err = fulcioExtensions([]Extension{{2, raw}, {12, subject}, {23, issuer}}, id); err != nil {
			t.Fatal(err)
		}
		if !utf8.ValidString(issuer) || !utf8.ValidString(subject) {
			// The judge must stop what the encoder let through.
			encoded, err := d.encode()
			if err != nil {
				return
			}
			tbsDER := precertificate(encoded)
			if judge(tbsDER, d, id) == nil {
				t.Fatalf("the judge let invalid UTF-8 pass: issuer %q, subject %q", issuer, subject)
			}
			return
		}
		compareWithStandardLibrary(t, d, client.Public())
		encoded, _ := d.encode()
		tbsDER := precertificate(encoded)
		if err := judge(tbsDER, d, id); err != nil {
			t.Fatalf("the judge refuses what the standard library agrees with: %v", err)
		}
	})
}

// withOptional asks for the optional extensions that the bits of which name.
func withOptional(t testing.TB, d *draft, which int) {
	t.Helper()
	copied := *d.chain
	if which&1 != 0 {
		copied.caIssuersURL = "http://pki.corp.example/issuing.cer"
	}
	if which&2 != 0 {
		copied.crlURL = "http://pki.corp.example/issuing.crl?delta=no"
	}
	if which&4 != 0 {
		d.policies = []x509.OID{mustOID(t, "1.3.6.1.4.1.55555.1.2"), mustOID(t, "2.16.840.1.101.3.2.1.3.1")}
	}
	d.noRevAvail = which&8 != 0
	d.chain = &copied
}

func mustOID(t testing.TB, s string) x509.OID {
	t.Helper()
	oid, err := x509.ParseOID(s)
	if err != nil {
		t.Fatal(err)
	}
	return oid
}

// FuzzSCTList embeds arbitrary bytes as an SCT and finds exactly them again.
func FuzzSCTList(f *testing.F) {
	f.Add([]byte("sct"))
	f.Add(bytes.Repeat([]byte{0xff}, 65533))
	f.Fuzz(func(t *testing.T, sct []byte) {
		ext, err := sctList(sct)
		// Two bytes of the outer vector hold the inner length, and the inner one
		// must not be empty.
		if len(sct) == 0 || len(sct) > 65533 {
			if err == nil {
				t.Fatalf("an SCT of %d bytes was embedded", len(sct))
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var parsed pkix.Extension
		if rest, err := asn1.Unmarshal(ext, &parsed); err != nil || len(rest) > 0 || parsed.Critical || !parsed.Id.Equal(oidSCTList) {
			t.Fatalf("extension %x: %v", ext, err)
		}
		var list []byte
		if rest, err := asn1.Unmarshal(parsed.Value, &list); err != nil || len(rest) > 0 {
			t.Fatalf("value %x: %v", parsed.Value, err)
		}
		n := len(sct)
		if want := append([]byte{byte((n + 2) >> 8), byte(n + 2), byte(n >> 8), byte(n)}, sct...); !bytes.Equal(list, want) {
			t.Fatalf("list %x, want %x", list, want)
		}
	})
}

func TestJudgeFindsEveryDifference(t *testing.T) {
	p := newPKI(t, p256(t), nil)
	chain := p.chain(t)
	key := prove(t, p256(t), testIdentity())
	san, err := EmailSAN("alice@corp.example")
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() *draft {
		ext, err := fulcioExtensions([]Extension{{12, "https://git.corp.example/x"}}, testIdentity())
		if err != nil {
			t.Fatal(err)
		}
		return &draft{
			serial: newSerial(), chain: chain, key: key, san: san, extensions: ext, logged: true,
			notBefore: testTime.Truncate(time.Second), notAfter: testTime.Truncate(time.Second).Add(10 * time.Minute),
		}
	}
	other := prove(t, p256(t), testIdentity())
	mallory, err := EmailSAN("mallory@corp.example")
	if err != nil {
		t.Fatal(err)
	}
	uri, err := URISAN("https://corp.example/a")
	if err != nil {
		t.Fatal(err)
	}
	stranger := newPKI(t, p256(t), func(_, i *x509.Certificate) { i.Subject.CommonName = "Stranger" }).chain(t)
	for name, change := range map[string]func(*draft){
		"nothing":              func(*draft) {},
		"serial":               func(d *draft) { d.serial = newSerial() },
		"short serial":         func(d *draft) { d.serial[0] = 0 },
		"negative serial":      func(d *draft) { d.serial[0] = 0x80 },
		"issuer":               func(d *draft) { d.chain = stranger },
		"start":                func(d *draft) { d.notBefore = d.notBefore.Add(time.Second) },
		"end":                  func(d *draft) { d.notAfter = d.notAfter.Add(-time.Second) },
		"key":                  func(d *draft) { d.key = other },
		"name":                 func(d *draft) { d.san = mallory },
		"user name":            func(d *draft) { d.san = SAN{SANUsername, "alice!corp.example"} },
		"kind of name":         func(d *draft) { d.san = uri },
		"NUL in the name":      func(d *draft) { d.san.value = "alice@corp.example\x00.evil.example" },
		"missing extension":    func(d *draft) { d.extensions = d.extensions[:3] },
		"additional extension": func(d *draft) { d.extensions = append(d.extensions, Extension{23, "x"}) },
		"value":                func(d *draft) { d.extensions[2].Value = "https://git.corp.example/y" },
		"CA issuers":           func(d *draft) { withOptional(t, d, 1) },
		"revocation list":      func(d *draft) { withOptional(t, d, 2) },
		"policies":             func(d *draft) { withOptional(t, d, 4) },
		"no revocation":        func(d *draft) { withOptional(t, d, 8) },
		"order":                func(d *draft) { d.extensions[0], d.extensions[1] = d.extensions[1], d.extensions[0] },
	} {
		t.Run(name, func(t *testing.T) {
			want, built := fresh(), (*draft)(nil)
			copied := *want
			copied.extensions = append([]Extension(nil), want.extensions...)
			built = &copied
			change(built)
			encoded, err := built.encode()
			if err != nil {
				t.Fatal(err)
			}
			tbsDER := precertificate(encoded)
			err = judge(tbsDER, want, testIdentity())
			if ok := name == "nothing"; (err == nil) != ok {
				t.Errorf("judge said %v, want ok %v", err, ok)
			}
		})
	}
}

// What is signed without a log is judged too: it has no poison, and a
// precertificate has.
func TestJudgeDemandsPoisonExactlyWhenLogged(t *testing.T) {
	for _, logged := range []bool{true, false} {
		a := newTestAuthority(t, func(c *Config) {
			if c.WithoutLog = !logged; c.WithoutLog {
				c.Log = nil
			}
		})
		_, d, encoded, err := a.prepare(t.Context(), testRequest(t, p256(t)))
		if err != nil {
			t.Fatal(err)
		}
		poisoned := precertificate(encoded)
		plain := encoded.with(nil)
		if err := judge(poisoned, d, testIdentity()); (err == nil) != logged {
			t.Errorf("logged %v: judge said %v of bytes with poison", logged, err)
		}
		if err := judge(plain, d, testIdentity()); (err == nil) == logged {
			t.Errorf("logged %v: judge said %v of bytes without poison", logged, err)
		}
	}
}

func TestJudgeDemandsTheVerifiedIdentity(t *testing.T) {
	a := newTestAuthority(t, nil)
	r := testRequest(t, p256(t))
	_, d, encoded, err := a.prepare(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	tbsDER := precertificate(encoded)
	for _, id := range []Identity{{Issuer: "https://evil.example", Subject: r.Identity.Subject}, {Issuer: r.Identity.Issuer, Subject: "root"}} {
		if judge(tbsDER, d, id) == nil {
			t.Errorf("identity %q %q passes as %q %q", id.Issuer, id.Subject, r.Identity.Issuer, r.Identity.Subject)
		}
	}
}
