package audit

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// A second spelling of a record, with a checksum that fits, is no record.
func TestParseLineDemandsOneSpelling(t *testing.T) {
	prev := sha256.Sum256([]byte("before"))
	good := string(appendLine(nil, header{seq: 12, time: testTime, node: "ca-1", prev: prev, typ: typeEvent}, []byte(`{"kind":"x"}`)))
	good = good[:len(good)-sumLength]
	hexPrev := fmt.Sprintf("%x", prev)
	reseal := func(content string) []byte {
		return fmt.Appendf(nil, `%s%s%x"}`, content, sumMember, sha256.Sum256([]byte(content)))
	}
	if h, body, err := parseLine(reseal(good)); err != nil || h.seq != 12 || string(body) != `{"kind":"x"}` {
		t.Fatalf("parseLine(%s) = %+v, %s, %v; want record 12", good, h, body, err)
	}
	for _, c := range []struct{ name, old, new string }{
		{"version 2", `{"v":1,`, `{"v":2,`},
		{"version 1.0", `{"v":1,`, `{"v":1.0,`},
		{"space", `,"seq":12`, `, "seq":12`},
		{"sequence with zero", `"seq":12`, `"seq":012`},
		{"sequence with sign", `"seq":12`, `"seq":+12`},
		{"negative sequence", `"seq":12`, `"seq":-12`},
		{"sequence too large", `"seq":12`, `"seq":18446744073709551616`},
		{"comma in the time", `00.123456789Z`, `00,123456789Z`},
		{"short hour", `T10:00:00`, `T1:00:00`},
		{"other zone", `123456789Z`, `123456789+00:00`},
		{"fewer digits", `123456789Z`, `12345678Z`},
		{"empty node", `"node":"ca-1"`, `"node":""`},
		{"node with an escape", `"node":"ca-1"`, `"node":"ca\u002d1"`},
		{"node that is long", `"node":"ca-1"`, `"node":"` + strings.Repeat("a", 65) + `"`},
		{"upper case hash", hexPrev, strings.ToUpper(hexPrev)},
		{"short hash", hexPrev, hexPrev[:62]},
		{"long hash", hexPrev, hexPrev + "00"},
		{"unknown type", `"type":"event"`, `"type":"gossip"`},
		{"member more", `,"body":`, `,"x":1,"body":`},
		{"member missing", `"node":"ca-1",`, ``},
		{"members exchanged", `"v":1,"seq":12`, `"seq":12,"v":1`},
		{"two bodies", `"body":{"kind":"x"}`, `"body":{"kind":"x"},"body":{}`},
		{"body is a string", `{"kind":"x"}`, `"x"`},
		{"no body", `{"kind":"x"}`, ``},
		{"invalid UTF-8", `"x"`, "\"\xff\""},
	} {
		content := strings.Replace(good, c.old, c.new, 1)
		if content == good {
			t.Fatalf("%s: nothing changed", c.name)
		}
		if h, body, err := parseLine(reseal(content)); err == nil {
			t.Errorf("%s: parseLine(%s) = %+v, %s; want an error", c.name, content, h, body)
		}
	}
	long := append([]byte(good[:len(good)-1]), bytes.Repeat([]byte(" "), maxRecord)...)
	if _, _, err := parseLine(reseal(string(long) + "}")); err == nil {
		t.Errorf("parseLine accepted a record of more than %d bytes", maxRecord)
	}
}

// What is too long to be read must not be written.
func TestARecordTooLongIsRefused(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	i := intent(t, 1)
	i.Request.Identity.Subject = strings.Repeat("x", maxRecord)
	if _, err := j.Intent(t.Context(), i); err == nil {
		t.Error("Intent longer than a record may be succeeded")
	}
	mustIntent(t, j, 2)
	closeJournal(t, j)
	if r := mustVerify(t, dir); r.Intents != 1 {
		t.Errorf("%d intents recorded, want 1", r.Intents)
	}
}
