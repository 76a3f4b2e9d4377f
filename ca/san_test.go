package ca

import (
	"strings"
	"testing"
)

func TestEmailSAN(t *testing.T) {
	for _, addr := range []string{
		"alice@corp.example", "Alice.B+tag@corp.example", "o'neil@xn--crp-sna.example", strings.Repeat("a", 64) + "@corp.example", "a@b",
	} {
		if s, err := EmailSAN(addr); err != nil || s.String() != addr || s.Kind() != SANEmail {
			t.Errorf("EmailSAN(%q) = %v, %v; want it accepted as it is", addr, s, err)
		}
	}
	for _, addr := range []string{
		"", "alice", "@corp.example", "alice@", "a@b@c", "alice@Corp.example", "alice@corp.example.", "alice@.example", "alice@-x.example",
		"ali ce@corp.example", "alice\x00@corp.example", "alice@corp.example\x00.evil", "alice@corp.example\n", "ålice@corp.example",
		"alice@ban\u212a.com", ".alice@corp.example", "a..b@corp.example", `"a b"@corp.example`, "a@[192.0.2.1]", strings.Repeat("a", 65) + "@corp.example",
		"alice@" + strings.Repeat("a", 64) + ".example", "a@" + strings.Repeat("a.", 130) + "example", "a,b@corp.example", "a@corp.example,b@corp.example",
	} {
		if _, err := EmailSAN(addr); err == nil {
			t.Errorf("EmailSAN(%q) is accepted", addr)
		}
	}
}

func TestURISAN(t *testing.T) {
	for _, uri := range []string{
		"https://ci.corp.example/job/x", "https://ci.corp.example:8443/a/b.c/", "spiffe://corp.example/ns/a/sa/b", "https://corp.example",
		"https://github.com/o/r/.github/workflows/ci.yml@refs/heads/main", "https://corp.example/a%20b", "https://corp.example/a:b;c=d&e",
		"https://gitlab.corp.example/group/project//.gitlab-ci.yml@refs/heads/main",
	} {
		if s, err := URISAN(uri); err != nil || s.String() != uri || s.Kind() != SANURI {
			t.Errorf("URISAN(%q) = %v, %v; want it accepted as it is", uri, s, err)
		}
	}
	for _, uri := range []string{
		"", "corp.example/a", "//corp.example/a", "http://corp.example/a", "javascript:alert(1)", "https:corp.example", "https:///a", "https://",
		"https://good.example@evil.example/", "https:\\\\evil.example", "https://corp.example/a/../b", "https://corp.example//a",
		"https://corp.example/./a", "https://corp.example/a%2fb", "https://corp.example/%2E%2e/b", "https://corp.example/a%00", "https://corp.example/a%0d",
		"https://corp.example/a#b", "https://corp.example/a?b", "https://Corp.example/a", "HTTPS://corp.example/a", "https://corp.example/\u202e",
		"https://corp.example/a b", "https://corp.example/a\n", "https://corp.example:/a", "spiffe://corp.example:1/a", "https://[::1]/a", "https://corp.example/%zz",
		"https://corp.example/" + strings.Repeat("a", 2048), "https://corp.example./a", "https://corp.example/a%5cb", "https://corp.example/%7f",
	} {
		if _, err := URISAN(uri); err == nil {
			t.Errorf("URISAN(%q) is accepted", uri)
		}
	}
}

// FuzzURISAN: what is accepted survives x509's own parser unchanged; the judge
// compares with it.
func FuzzURISAN(f *testing.F) {
	f.Add("https://ci.corp.example/job/x")
	f.Add("spiffe://corp.example/ns/a/sa/b")
	f.Add("https://corp.example/a%20b@refs")
	f.Fuzz(func(t *testing.T, uri string) {
		if s, err := URISAN(uri); err == nil && (s.String() != uri || strings.Contains(uri, "..%") || strings.ContainsAny(uri, "\x00\n #?\\")) {
			t.Errorf("URISAN(%q) accepted as %q", uri, s)
		}
	})
}

func TestUsernameSAN(t *testing.T) {
	for _, user := range []string{"alice", `CORP\alice`, "alice@corp", "a"} {
		if s, err := UsernameSAN(user, "corp.example"); err != nil || s.String() != user+"!corp.example" || s.Kind() != SANUsername {
			t.Errorf("UsernameSAN(%q) = %v, %v; want it accepted as it is", user, s, err)
		}
	}
	for _, c := range [][2]string{
		{"", "corp.example"}, {"alice", ""}, {"a b", "corp.example"}, {"a!b", "corp.example"}, {"alice", "Corp.example"}, {"ålice", "corp.example"},
		{"a\x00", "corp.example"}, {"alice", "corp.example."}, {strings.Repeat("a", 250), "corp.example"}, {"alice", "evil!corp.example"},
	} {
		if _, err := UsernameSAN(c[0], c[1]); err == nil {
			t.Errorf("UsernameSAN(%q, %q) is accepted", c[0], c[1])
		}
	}
}
