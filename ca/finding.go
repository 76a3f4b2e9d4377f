package ca

// Level says how much a [Finding] matters.
type Level int

// The levels of a finding. Only a Problem keeps a chain from being used.
const (
	// OK is a check that was passed.
	OK Level = iota
	// Note is something to know, and perhaps to decide.
	Note
	// Warning is something to change before it hurts.
	Warning
	// Problem is something that verifiers refuse, or that nobody should do.
	Problem
)

// String returns "ok", "note", "warning" or "problem".
func (l Level) String() string {
	switch l {
	case OK:
		return "ok"
	case Note:
		return "note"
	case Warning:
		return "warning"
	default:
		return "problem"
	}
}

// MarshalText writes the level as String does.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Finding is what one check found, in words for an administrator: what is so,
// why it matters, and what to do.
type Finding struct {
	// Check names the check; see [Inspect] for the list. It never changes
	// meaning.
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
}

// Worst returns the highest level among findings; OK when there are none.
func Worst(findings []Finding) Level {
	worst := OK
	for _, f := range findings {
		worst = max(worst, f.Level)
	}
	return worst
}
