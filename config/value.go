package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate is a number of events in a second, a minute or an hour, written as 60/min.
type Rate struct {
	// Events is how many events Per allows, and how many may come at once.
	Events int
	// Per is time.Second, time.Minute or time.Hour.
	Per time.Duration
}

// maxEvents keeps Events/Per and Per/Events exact in every unit.
const maxEvents = 1_000_000

var rateUnits = []struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"min", time.Minute}, {"h", time.Hour}}

// ParseRate reads a rate: a whole number from 1 to 1000000, a slash, and s, min
// or h.
func ParseRate(s string) (Rate, error) {
	number, unit, ok := strings.Cut(s, "/")
	if !ok {
		return Rate{}, errors.New("write a number and a unit, such as 60/min (units: s, min, h)")
	}
	n, err := parseInt(number)
	if err != nil || n < 1 || n > maxEvents {
		return Rate{}, fmt.Errorf("write a whole number from 1 to %d before the slash, such as 60/min", maxEvents)
	}
	for _, u := range rateUnits {
		if u.name == unit {
			return Rate{Events: n, Per: u.per}, nil
		}
	}
	return Rate{}, fmt.Errorf("unknown unit %q; use s, min or h, such as 60/min", unit)
}

// String is the form that ParseRate reads.
func (r Rate) String() string {
	for _, u := range rateUnits {
		if u.per == r.Per {
			return fmt.Sprintf("%d/%s", r.Events, u.name)
		}
	}
	return fmt.Sprintf("%d/%v", r.Events, r.Per)
}

// MarshalText is String.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Size is a number of bytes, written as 16KiB.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
)

// ParseSize reads a size: a whole number and B, KiB or MiB.
func ParseSize(s string) (Size, error) {
	for _, u := range []struct {
		name string
		size Size
	}{{"MiB", MiB}, {"KiB", KiB}, {"B", 1}} {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := parseInt(number)
		if err != nil || n < 0 || n > 1<<30 {
			return 0, fmt.Errorf("write a whole number before %s, such as 16KiB", u.name)
		}
		return Size(n) * u.size, nil
	}
	return 0, errors.New("write a number and a unit, such as 16KiB (units: B, KiB, MiB)")
}

// String is the form that ParseSize reads.
func (s Size) String() string {
	switch {
	case s != 0 && s%MiB == 0:
		return fmt.Sprintf("%dMiB", s/MiB)
	case s != 0 && s%KiB == 0:
		return fmt.Sprintf("%dKiB", s/KiB)
	}
	return fmt.Sprintf("%dB", int64(s))
}

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Logs is either a list of logs or the word disabled.
type Logs struct {
	// Disabled is true when the file says `logs: disabled`: certificates are
	// then issued without an SCT, and stock clients refuse them.
	Disabled bool
	// List is empty exactly when Disabled is true.
	List []Log
}

// logsDisabled is how the file says that there is no log.
const logsDisabled = "disabled"

// MarshalYAML returns the form that Load reads.
func (l Logs) MarshalYAML() (any, error) {
	if l.Disabled {
		return logsDisabled, nil
	}
	return l.List, nil
}

// parseInt accepts plain decimal digits only: YAML reads 010 as eight and 1_0
// as ten, which is not what everyone who writes them means.
func parseInt(s string) (int, error) {
	if len(s) > 1 && s[0] == '0' {
		return 0, strconv.ErrSyntax
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, strconv.ErrSyntax
		}
	}
	return strconv.Atoi(s)
}
