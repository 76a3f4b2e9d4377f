package stack

import "testing"

// An administrator who puts back what was there before has corrected the mistake.
func TestFileThatIsPutBackEndsTheRefusal(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	text := s.mount()
	s.swap(text + "nonsense: {}\n")
	eventually(t, "the broken version is refused", r.reloads.refused.Load)
	s.swap(text)
	eventually(t, "the refusal ends", func() bool { return !r.reloads.refused.Load() })
}
