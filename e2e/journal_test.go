package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"
)

// journal is what an auditor reads out of the audit files, by their documented
// form and without Mayfly's code.
type journal struct {
	intents  map[uint64]intent
	bySerial map[string]uint64
	byTBS    map[string]uint64 // by SHA-256 of the to-be-signed bytes
	outcomes map[uint64]outcome
}

type intent struct {
	Certificate struct {
		Serial string `json:"serial"`
		TBS    string `json:"tbs_sha256"`
	} `json:"certificate"`
}

type outcome struct {
	Intent      uint64 `json:"intent"`
	Result      string `json:"result"`
	Certificate string `json:"certificate_sha256"`
}

func (w *world) auditDir() string { return filepath.Join(w.state, "audit") }

// journal has Mayfly verify the chain of records, and reads them.
func (w *world) journal(t testing.TB) journal {
	t.Helper()
	command{dir: w.dir}.must(t, program(t, "E2E_MAYFLY"), "audit", "verify", w.auditDir())
	files, err := filepath.Glob(filepath.Join(w.auditDir(), "journal-*.ndjson"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no journal in %s: %v", w.auditDir(), err)
	}
	slices.Sort(files)
	j := journal{map[uint64]intent{}, map[string]uint64{}, map[string]uint64{}, map[uint64]outcome{}}
	for _, file := range files {
		for line := range bytes.Lines(readFile(t, file)) {
			j.add(t, line)
		}
	}
	return j
}

func (j journal) add(t testing.TB, line []byte) {
	t.Helper()
	var record struct {
		Seq  uint64          `json:"seq"`
		Type string          `json:"type"`
		Body json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(line, &record); err != nil {
		t.Fatalf("reading journal line %q: %v", line, err)
	}
	switch record.Type {
	case "intent":
		var i intent
		if err := json.Unmarshal(record.Body, &i); err != nil {
			t.Fatal(err)
		}
		if before, twice := j.bySerial[i.Certificate.Serial]; twice {
			t.Errorf("records %d and %d have the same serial %s", before, record.Seq, i.Certificate.Serial)
		}
		j.intents[record.Seq] = i
		j.bySerial[i.Certificate.Serial], j.byTBS[i.Certificate.TBS] = record.Seq, record.Seq
	case "outcome":
		var o outcome
		if err := json.Unmarshal(record.Body, &o); err != nil {
			t.Fatal(err)
		}
		if _, known := j.intents[o.Intent]; !known {
			t.Errorf("record %d is the outcome of %d, which is no intent", record.Seq, o.Intent)
		}
		j.outcomes[o.Intent] = o
	}
}

// checkClosed demands that every intent has its outcome, and returns how many
// are closed as unknown.
func (j journal) checkClosed(t testing.TB) (unknown int) {
	t.Helper()
	for seq, i := range j.intents {
		switch o, closed := j.outcomes[seq]; {
		case !closed:
			t.Errorf("intent %d of serial %s is still open", seq, i.Certificate.Serial)
		case o.Result == "unknown":
			unknown++
		}
	}
	return unknown
}

// checkIssued demands that a certificate which a client holds is recorded as
// issued, with its hash. The outcome is written before the answer, so a kill
// leaves none in doubt that was answered; only a power failure may.
func (j journal) checkIssued(t testing.TB, leaf *x509.Certificate) {
	t.Helper()
	serial := hex.EncodeToString(leaf.SerialNumber.FillBytes(make([]byte, 20)))
	seq, ok := j.bySerial[serial]
	if !ok {
		t.Errorf("a client has the certificate %s, of which the journal knows nothing", serial)
		return
	}
	hash := sha256.Sum256(leaf.Raw)
	if o := j.outcomes[seq]; o.Result != "issued" || o.Certificate != hex.EncodeToString(hash[:]) {
		t.Errorf("a client has the certificate %s of hash %x; the journal says %+v", serial, hash, o)
	}
}
