package pkcs11

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseURIReadsWhatOthersPrint(t *testing.T) {
	for _, c := range []struct {
		name, text, canonical string
		want                  URI
	}{
		{
			"p11tool, SoftHSM",
			"pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=59bb5ee1c6a4e15b;token=mayfly;id=%A1%b2;object=issuing;type=private",
			"pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=59bb5ee1c6a4e15b;token=mayfly;id=%A1%B2;object=issuing;type=private",
			URI{
				Model: "SoftHSM v2", Manufacturer: "SoftHSM project", Serial: "59bb5ee1c6a4e15b", Token: "mayfly",
				ID: []byte{0xa1, 0xb2}, Object: "issuing", Type: "private",
			},
		},
		{
			"another order, and a PIN file",
			"pkcs11:object=ca;token=My%20token%25%20by%20Joe?pin-source=file:/etc/mayfly/pin&module-path=/usr/lib/softhsm/libsofthsm2.so",
			"pkcs11:token=My%20token%25%20by%20Joe;object=ca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/etc/mayfly/pin",
			URI{
				Token: "My token% by Joe", Object: "ca",
				ModulePath: "/usr/lib/softhsm/libsofthsm2.so", PINSource: "/etc/mayfly/pin",
			},
		},
		{"nothing", "pkcs11:", "pkcs11:", URI{}},
		{"a plus is a plus", "pkcs11:object=a+b", "pkcs11:object=a+b", URI{Object: "a+b"}},
		{"an id in letters is those letters", "pkcs11:id=s1", "pkcs11:id=%73%31", URI{ID: []byte("s1")}},
		{"an id that is not text", "pkcs11:id=%00%FF", "pkcs11:id=%00%FF", URI{ID: []byte{0, 0xff}}},
		{
			"everything that needs no encoding",
			"pkcs11:token=:[]@!$'()*+,=&-._~?x-q=:[]@!$'()*+,=/?|",
			"pkcs11:token=:[]@!$'()*+,=&-._~?x-q=:[]@!$'()*+,=/?|",
			URI{Token: ":[]@!$'()*+,=&-._~", VendorQuery: []URIAttribute{{"x-q", ":[]@!$'()*+,=/?|"}}},
		},
		{
			"what needs none, encoded all the same", "pkcs11:token=%3a%5B%41", "pkcs11:token=:[A",
			URI{Token: ":[A"},
		},
		{
			"separators inside values", "pkcs11:token=a%3Bb%3Fc%2Fd?pin-source=/a%26b", "pkcs11:token=a%3Bb%3Fc%2Fd?pin-source=/a%26b",
			URI{Token: "a;b?c/d", PINSource: "/a&b"},
		},
		{
			"slot, library and vendor", "pkcs11:slot-id=0;library-version=2.40;library-description=d;library-manufacturer=m;x-b=2;x-a=1",
			"pkcs11:library-description=d;library-manufacturer=m;library-version=2.40;slot-id=0;x-b=2;x-a=1",
			URI{
				SlotID: new(uint(0)), LibraryVersion: "2.40", LibraryDescription: "d", LibraryManufacturer: "m",
				Vendor: []URIAttribute{{"x-b", "2"}, {"x-a", "1"}},
			},
		},
		{"not in ASCII", "pkcs11:token=%C3%A9", "pkcs11:token=%C3%A9", URI{Token: "é"}},
		{"file URI with an empty host", "pkcs11:?pin-source=file:///run/pin", "pkcs11:?pin-source=/run/pin", URI{PINSource: "/run/pin"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseURI(c.text)
			if err != nil {
				t.Fatalf("ParseURI(%q) = %v, want no error", c.text, err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("ParseURI(%q) = %#v, want %#v", c.text, got, c.want)
			}
			if s := got.String(); s != c.canonical {
				t.Errorf("String of %q = %q, want %q", c.text, s, c.canonical)
			}
		})
	}
}

func TestParseURIRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing at all", "", `does not begin with "pkcs11:"`},
		{"another scheme", "file:/x", `does not begin with "pkcs11:"`},
		{"a scheme in capitals", "PKCS11:token=a", `does not begin with "pkcs11:"`},
		{"too much", "pkcs11:object=" + strings.Repeat("a", maxURI), "longer than 4096"},
		{"unknown attribute", "pkcs11:tokne=a", "tokne of the PKCS#11 URI is not an attribute of RFC 7512"},
		{"unknown attribute in the query", "pkcs11:?pin_source=/a", "pin_source of the PKCS#11 URI is not an attribute"},
		{"a query attribute in the path", "pkcs11:module-path=%2Fa", "module-path of the PKCS#11 URI is not an attribute"},
		{"a path attribute in the query", "pkcs11:?token=a", "token of the PKCS#11 URI is not an attribute"},
		{"an attribute in capitals", "pkcs11:Token=a", "Token of the PKCS#11 URI is not an attribute"},
		{"twice", "pkcs11:token=a;token=a", "token is in the PKCS#11 URI twice"},
		{"twice in the query", "pkcs11:?pin-source=/a&pin-source=/b", "pin-source is in the PKCS#11 URI twice"},
		{"a vendor's twice", "pkcs11:x-a=1;x-a=2", "x-a is in the PKCS#11 URI twice"},
		{"empty value", "pkcs11:token=", "token of the PKCS#11 URI is empty"},
		{"empty id", "pkcs11:id=", "id of the PKCS#11 URI is empty"},
		{"empty part", "pkcs11:token=a;", "part 2 between the"},
		{"empty query", "pkcs11:token=a?", "ends in a question mark"},
		{"no value", "pkcs11:token", "part 1 between the"},
		{"a name that is none", "pkcs11:to%6ben=a", "part 1 between the"},
		{"half an escape", "pkcs11:token=a%2", "ends within a percent-encoded byte"},
		{"a lone percent sign", "pkcs11:token=a%", "ends within a percent-encoded byte"},
		{"an escape that is none", "pkcs11:token=%2x", "without two hexadecimal digits"},
		{"a blank", "pkcs11:token=a b", "offset 1 that must be percent-encoded: %20"},
		{"a slash in the path", "pkcs11:token=a/b", "offset 1 that must be percent-encoded: %2F"},
		{"a fragment", "pkcs11:token=a#b", "offset 1 that must be percent-encoded: %23"},
		{"bare UTF-8", "pkcs11:token=é", "offset 0 that must be percent-encoded: %C3"},
		{"not UTF-8", "pkcs11:token=%FF", "token of the PKCS#11 URI is not printable UTF-8"},
		{"a zero byte", "pkcs11:token=a%00", "is not printable UTF-8"},
		{"a new line", "pkcs11:?pin-source=/a%0a", "is not printable UTF-8"},
		{"a label longer than the field", "pkcs11:token=" + strings.Repeat("a", 33), "has 33 bytes and can match nothing"},
		{"a serial longer than the field", "pkcs11:serial=" + strings.Repeat("1", 17), "has 17 bytes and can match nothing"},
		{"a label that ends in a blank", "pkcs11:token=a%20", "ends in a blank"},
		{"slot by name", "pkcs11:slot-description=a", "slots move"},
		{"slot that is no number", "pkcs11:slot-id=0x1", "is not a decimal number"},
		{"slot with a sign", "pkcs11:slot-id=-1", "is not a decimal number"},
		{"slot with a leading zero", "pkcs11:slot-id=01", "is not a decimal number"},
		{"slot beyond an unsigned long", "pkcs11:slot-id=18446744073709551616", "is not a decimal number"},
		{"library version that is none", "pkcs11:library-version=2.", "is not a version"},
		{"library version beyond a byte", "pkcs11:library-version=256", "is not a version"},
		{"type that is none", "pkcs11:type=key", "is none of private, public"},
		{"relative module", "pkcs11:?module-path=libsofthsm2.so", "is not an absolute path"},
		{"module by name", "pkcs11:?module-name=softhsm2", "libraries are not searched for"},
		{"PIN from a program", "pkcs11:?pin-source=|/bin/pin", "names a program to run"},
		{"PIN on another host", "pkcs11:?pin-source=file://host/pin", "is not an absolute path"},
		{"PIN over the network", "pkcs11:?pin-source=https:/host/pin", "is not an absolute path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseURI(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseURI(%q) = %#v, %v; want an error with %q", c.text, got, err, c.want)
			}
			if err != nil && !reflect.DeepEqual(got, URI{}) {
				t.Errorf("ParseURI(%q) = %#v with its error, want the zero URI", c.text, got)
			}
		})
	}
}

func TestParseURINeverRepeatsThePIN(t *testing.T) {
	const pin = "4711-secret"
	for _, text := range []string{
		"pkcs11:token=a?pin-value=" + pin,
		"pkcs11:token=a;pin-value=" + pin,
		"pkcs11:token=a?pin-value=" + pin + "%zz",
		"pkcs11:token=a?pin-value=" + pin + "#",
		"pkcs11:token=a?pin-value=" + pin + "&pin-value=" + pin,
		"pkcs11:token=a?pinvalue=" + pin,
		"pkcs11:token=a?" + pin + "!",
		"pkcs11:token=a?pin-value:" + pin,
		"pkcs11:token=a?pin-source=" + pin,
		"pkcs11:token=a?pin-source=/x?pin-value=" + pin + "#",
		"pkcs11:token=a?module-path=" + pin,
		"pkcs11:slot-id=" + pin,
		"pkcs11:type=" + pin,
		"pkcs11;pin-value=" + pin,
		pin,
	} {
		_, err := ParseURI(text)
		if err == nil {
			t.Errorf("ParseURI(%q) = nil, want a refusal", text)
		} else if strings.Contains(err.Error(), pin) {
			t.Errorf("ParseURI(%q) = %v, which repeats the PIN", text, err)
		}
	}
	if _, err := ParseURI("pkcs11:?pin-value=" + pin); err == nil || !strings.Contains(err.Error(), "put it in a file") {
		t.Errorf("ParseURI with pin-value = %v, want advice to put it in a file", err)
	}
}

func TestIDHintOffersTheOtherReading(t *testing.T) {
	for _, c := range []struct{ name, id, want string }{
		{"hexadecimal text", "7331", `the id is the text "7331"; if the bytes 7331 are meant, write id=%73%31`},
		{"with a prefix", "0xA1", `the id is the text "0xA1"; if the bytes a1 are meant, write id=%A1`},
		{"bytes", "\x73\x31\x00", ""},
		{"a word", "issuing", ""},
		{"an odd number of digits", "733", ""},
		{"nothing", "", ""},
	} {
		if got := idHint([]byte(c.id)); got != c.want {
			t.Errorf("%s: idHint(%q) = %q, want %q", c.name, c.id, got, c.want)
		}
	}
}

// FuzzParseURI checks that what is accepted has one printed form, which means
// the same.
func FuzzParseURI(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			if !reflect.DeepEqual(u, URI{}) {
				t.Errorf("ParseURI(%q) = %#v with error %v, want the zero URI", text, u, err)
			}
			return
		}
		printed := u.String()
		if len(printed) > maxURI {
			return // an id prints longer than it was given
		}
		again, err := ParseURI(printed)
		if err != nil || !reflect.DeepEqual(again, u) {
			t.Fatalf("ParseURI(%q) = %#v, %v; want %#v of %q", printed, again, err, u, text)
		}
		if s := again.String(); s != printed {
			t.Errorf("%q prints as %q and that as %q", text, printed, s)
		}
	})
}
