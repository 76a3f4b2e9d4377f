package pkcs11

import (
	"context"
	"sync"
)

// slots bounds how many sessions are open at once. The bound moves: tokens
// misreport how many they allow, and share them with other programs.
type slots struct {
	// mu guards what follows.
	mu sync.Mutex
	// size is what the configuration and the token allow, limit what the token
	// has shown to bear.
	size, limit, used int
	waiting           []chan struct{}
}

func newSlots(size int) *slots { return &slots{size: size, limit: size} }

// acquire takes a slot, first come, first served.
func (s *slots) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.used < s.limit && len(s.waiting) == 0 {
		s.used++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	s.waiting = append(s.waiting, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.waiting {
		if w == turn {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	// The turn came at the same moment. Somebody else can use it.
	s.used--
	s.admit()
	return ctx.Err()
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.admit()
}

// admit wakes who may go on. The caller holds mu.
func (s *slots) admit() {
	for s.used < s.limit && len(s.waiting) > 0 {
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
		s.used++
	}
}

// resize sets how many sessions there may be.
func (s *slots) resize(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size != size {
		s.size, s.limit = size, size
	}
	s.admit()
}

// shrink lowers the limit to what was open when the token refused one more.
func (s *slots) shrink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = max(1, min(s.limit, s.used)-1)
}

// grow raises the limit again by one.
func (s *slots) grow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = min(s.limit+1, s.size)
	s.admit()
}

// restore lets all slots be taken again, and returns how many there are.
func (s *slots) restore() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = s.size
	s.admit()
	return s.size
}

// figures returns how many slots are taken and how many there should be.
func (s *slots) figures() (used, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used, s.size
}
