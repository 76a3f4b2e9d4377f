package pkcs11

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"
)

func TestDoctorFindsNothingWrongWithAGoodKey(t *testing.T) {
	for _, algorithm := range []string{"ecdsa-p384", "rsa-2048"} {
		t.Run(algorithm, func(t *testing.T) {
			s := newStation(t)
			made := s.make(t, GenerateConfig{Object: "corp", Algorithm: algorithm})
			all := s.examine(t, KeyConfig{Name: "corp", Object: "corp", Public: made.Key.Public})
			wantNoProblem(t, all)
			for _, words := range []string{
				"root alone can change it", "token=ceremony", "was accepted", "8 of max_sessions 8", "CKM_ECDSA signs", "CKM_RSA_PKCS signs",
				"it is the key of the configured certificate", "a test signature took", "signatures a second in one session",
			} {
				wantFinding(t, all, OK, words)
			}
			wantFinding(t, all, Note, "is no hardware")
			for _, f := range all {
				if f.Level == Warning {
					t.Errorf("warning %s: %s", f.Check, f.Text)
				}
			}
		})
	}
}

// A login with the wrong PIN brings the token nearer to being locked, and one
// that could lock it is not tried at all.
func TestDoctorSparesThePIN(t *testing.T) {
	for _, c := range []struct {
		name          string
		with, without uint
		words         string
	}{
		{"locked", p11.CKF_USER_PIN_LOCKED, 0, "the user PIN is locked"},
		{"final try", p11.CKF_USER_PIN_FINAL_TRY, 0, "one more wrong PIN locks the token"},
		{"to be changed", p11.CKF_USER_PIN_TO_BE_CHANGED, 0, "wants the PIN changed"},
		{"not set", 0, p11.CKF_USER_PIN_INITIALIZED, "no user PIN"},
		{"own keypad", p11.CKF_PROTECTED_AUTHENTICATION_PATH, 0, "on its own keypad"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStation(t)
			s.lib.tokenFlags, s.lib.withoutFlags = c.with, c.without
			wantFinding(t, s.examine(t), Problem, c.words)
			if n := s.lib.allLogins(); n != 0 {
				t.Errorf("%d logins, want none", n)
			}
		})
	}
}

func TestDoctorTriesAWrongPINOnce(t *testing.T) {
	s := newStation(t)
	if err := os.WriteFile(s.config.PINFile, []byte("000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := s.examine(t, KeyConfig{Name: "corp", Object: "corp"})
	wantFinding(t, all, Problem, "CKR_PIN_INCORRECT")
	if n := s.lib.allLogins(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	if strings.Contains(findingsText(all), "000000") {
		t.Errorf("the report tells the PIN:\n%s", findingsText(all))
	}
}

func TestDoctorRefusesAPINFileThatOthersCanRead(t *testing.T) {
	s := newStation(t)
	if err := os.Chmod(s.config.PINFile, 0o644); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, s.examine(t), Problem, "open to others")
	if n := s.lib.allLogins(); n != 0 {
		t.Errorf("%d logins, want none", n)
	}
}

func TestDoctorReportsTheToken(t *testing.T) {
	for _, c := range []struct {
		name          string
		with, without uint
		level         Level
		words         string
	}{
		{"wrong PINs", p11.CKF_USER_PIN_COUNT_LOW, 0, Warning, "a wrong PIN was tried"},
		{"error state", p11.CKF_ERROR_STATE, 0, Problem, "in its error state"},
		{"no login", 0, p11.CKF_LOGIN_REQUIRED, Warning, "asks for no login"},
		{"write-protected", p11.CKF_WRITE_PROTECTED, 0, Note, "write-protected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStation(t)
			s.lib.tokenFlags, s.lib.withoutFlags = c.with, c.without
			wantFinding(t, s.examine(t), c.level, c.words)
		})
	}
}

func TestDoctorNamesWhatIsWrongWithAKey(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		lie   map[uint]bool
		key   KeyConfig
		level Level
		words string
	}{
		{"extractable", map[uint]bool{p11.CKA_EXTRACTABLE: true}, KeyConfig{Object: "corp"}, Problem, "the key can leave the token"},
		{"extractable and allowed", map[uint]bool{p11.CKA_EXTRACTABLE: true}, KeyConfig{Object: "corp", AllowExtractable: true}, Warning, "the key can leave the token"},
		{"not sensitive", map[uint]bool{p11.CKA_SENSITIVE: false}, KeyConfig{Object: "corp"}, Problem, "read in the clear"},
		{"cannot sign", map[uint]bool{p11.CKA_SIGN: false}, KeyConfig{Object: "corp"}, Problem, "CKA_SIGN is false"},
		{"imported", map[uint]bool{p11.CKA_LOCAL: false}, KeyConfig{Object: "corp"}, Note, "CKA_LOCAL is false"},
		{"decrypts too", map[uint]bool{p11.CKA_DECRYPT: true}, KeyConfig{Object: "corp"}, Note, "CKA_DECRYPT is true"},
		{"of another certificate", nil, KeyConfig{Object: "corp", Public: other.Public()}, Problem, "the certificate is for another key"},
		{"without certificate", nil, KeyConfig{Object: "corp"}, Note, "no certificate for this key yet"},
		{"absent", nil, KeyConfig{Object: "corp-2027"}, Problem, "no such private key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStation(t)
			s.make(t, GenerateConfig{Object: "corp", Algorithm: "ecdsa-p256"})
			s.lib.attributes = c.lie
			c.key.Name = "corp"
			wantFinding(t, s.examine(t, c.key), c.level, c.words)
		})
	}
}

func TestDoctorCountsTheSessionsThatOpen(t *testing.T) {
	for _, c := range []struct {
		bears int32
		level Level
		words string
		do    string
	}{
		{1, Problem, "one session opens and no second", "end other programs"},
		{3, Warning, "only 3 of max_sessions 8", "max_sessions: 3"},
	} {
		s := newStation(t)
		var open atomic.Int32
		s.lib.openSession = func() error {
			if open.Add(1) > c.bears {
				return p11.Error(p11.CKR_SESSION_COUNT)
			}
			return nil
		}
		all := s.examine(t)
		wantFinding(t, all, c.level, c.words)
		for _, f := range all {
			if f.Check == "sessions" && !strings.Contains(f.Do, c.do) {
				t.Errorf("of a token that bears %d sessions: advice %q, want %q in it", c.bears, f.Do, c.do)
			}
		}
	}
}

// A library that hangs must not hold the prompt, and the last line tells where.
func TestDoctorEndsWhenTheLibraryHangs(t *testing.T) {
	s := newStation(t)
	hang := make(chan struct{})
	s.lib.openSession = func() error { <-hang; return p11.Error(p11.CKR_GENERAL_ERROR) }
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	all, err := s.examination(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not answered what comes after the last line") {
		t.Errorf("Doctor = %v, want that time ran out", err)
	}
	if last := all[len(all)-1]; last.Check != "pin" {
		t.Errorf("the last line is about %s, want pin: it hangs in what follows", last.Check)
	}
	close(hang)
}

func TestDoctorRefusesALibraryThatOthersCanChange(t *testing.T) {
	s := newStation(t)
	dir := t.TempDir()
	s.config.Module = dir + "/module.so"
	if err := os.WriteFile(s.config.Module, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.config.Module, 0o666); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, s.examine(t), Problem, "can be changed by others than root")
}
