package ctlog_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// The submission made here must be the one that another library makes.
func TestNewSubmissionTakesThePoisonOut(t *testing.T) {
	want := testca.New(t).Precertificate(t)
	got, err := ctlog.NewSubmission(want.Precertificate, want.Issuers)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.TBS, want.TBS) || got.IssuerKeyHash != want.IssuerKeyHash {
		t.Fatalf("TBS %x under key %x\nwant %x under key %x", got.TBS, got.IssuerKeyHash, want.TBS, want.IssuerKeyHash)
	}
	if err := got.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestNewSubmissionRefusesWhatIsNone(t *testing.T) {
	s := testca.New(t).Precertificate(t)
	for _, c := range []struct {
		name           string
		precertificate []byte
		issuers        [][]byte
	}{
		{"no issuing certificate", s.Precertificate, nil},
		{"an issuing certificate that is none", s.Precertificate, [][]byte{{1}}},
		{"a certificate without poison", s.Issuers[0], s.Issuers},
		{"something behind the precertificate", append(bytes.Clone(s.Precertificate), 0), s.Issuers},
		{"nothing", nil, s.Issuers},
	} {
		if _, err := ctlog.NewSubmission(c.precertificate, c.issuers); !errors.Is(err, ctlog.ErrRejected) {
			t.Errorf("%s: got %v, want %v", c.name, err, ctlog.ErrRejected)
		}
	}
}
