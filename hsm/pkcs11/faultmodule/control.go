package faultmodule

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// The words of the control file; enum word in module/state.h has the same.
const (
	wMagic = iota
	wDrop
	wLogout
	wSlotOffset
	wUnplugged
	wWedged
	wFlips
	wSwapFind
	wSwapSign
	wMaxSessions
	wOpen
	wPeak
	wLoginsNow
	wCallsNow
	wSignatures
	wInitialised
	wReplay
	wViolations = 20
	wOtherLabel = 24
	wFunctions  = 32

	magic          = 0x6d61796661756c74
	otherLabelSize = 64
)

// The words of each function; enum field in module/state.h has the same.
const (
	fCalls = iota
	fRV
	fRemaining
	fEvery
	fAfter
	fHangs
	fReleases
	fHanging
	fDelay
	fields = 16
)

// violations are what no caller of PKCS#11 may do; enum violation in
// module/state.h has the same order.
var violations = []string{
	"called C_Finalize while other calls were running",
	"used one session in two calls at once",
	"called C_Login twice at once",
	"called a function before C_Initialize or after C_Finalize",
}

// Forever is as often as it takes.
const Forever = -1

// Module commands one fault module. Its methods may be called at any time, from
// any goroutine; functions go by their names without C_.
type Module struct {
	// Path is the library to load.
	Path string

	// words is mapped into the program that has loaded the library, too.
	words []uint64
}

// newControl makes the file through which the module is commanded. The mapping
// stays until the process ends, because the library has no other moment to be
// done with it.
func newControl(path string) (words []uint64, err error) {
	n := wFunctions + len(functions)*fields
	first := binary.NativeEndian.AppendUint64(nil, magic+uint64(len(functions)))
	if err := os.WriteFile(path, append(first, make([]byte, (n-1)*8)...), 0o600); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	mapped, err := syscall.Mmap(int(file.Fd()), 0, n*8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", path, err)
	}
	//nolint:gosec // G103: a mapping begins at a page, and n words were mapped.
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(mapped))), n), nil
}

func (m *Module) load(word int) uint64      { return atomic.LoadUint64(&m.words[word]) }
func (m *Module) store(word int, to uint64) { atomic.StoreUint64(&m.words[word], to) }

// at returns the index of a word of a function. A name that is none is a mistake
// of the test, which would otherwise wait for a fault that never comes.
func at(function string, field int) int {
	i := slices.Index(functions, function)
	if i < 0 {
		panic("faultmodule: C_" + function + " is none of the functions that can fail") //nolint:forbidigo // a test that is wrong
	}
	return wFunctions + i*fields + field
}

func flag(on bool) uint64 {
	if on {
		return 1
	}
	return 0
}

// times maps Forever to what the module takes for it.
func times(n int) uint64 {
	if n < 0 {
		return math.MaxUint64
	}
	return uint64(n)
}

// Fail has the next n calls of a function return rv without doing anything.
func (m *Module) Fail(function string, rv uint, n int) { m.fail(function, rv, n, 0, false) }

// FailAfter has the next n calls do their work and then return rv, as when the
// answer is lost.
func (m *Module) FailAfter(function string, rv uint, n int) { m.fail(function, rv, n, 0, true) }

// FailEvery has every nth call return rv without doing anything; 0 stops it.
func (m *Module) FailEvery(function string, rv uint, nth int) { m.fail(function, rv, 0, nth, false) }

func (m *Module) fail(function string, rv uint, n, every int, after bool) {
	m.store(at(function, fRemaining), 0)
	m.store(at(function, fEvery), 0)
	m.store(at(function, fRV), uint64(rv))
	m.store(at(function, fAfter), flag(after))
	m.store(at(function, fEvery), uint64(every))
	m.store(at(function, fRemaining), times(n))
}

// Hang has the next n calls of a function hang until Release, and then go on.
func (m *Module) Hang(function string, n int) { m.store(at(function, fHangs), times(n)) }

// Release lets the calls of a function that hang go on, and no others hang.
func (m *Module) Release(function string) {
	m.store(at(function, fHangs), 0)
	atomic.AddUint64(&m.words[at(function, fReleases)], 1)
}

// Hanging returns how many calls of a function hang now.
func (m *Module) Hanging(function string) int { return int(m.load(at(function, fHanging))) }

// Delay has calls of a function take so much longer, without using the CPU. A
// C_Sign that only asks for the length of the signature is not delayed.
func (m *Module) Delay(function string, d time.Duration) {
	m.store(at(function, fDelay), uint64(d.Nanoseconds()))
}

// DropSessions closes all sessions at the next call, whatever it is, as a device
// does that restarts. Logins end with the sessions.
func (m *Module) DropSessions() { m.store(wDrop, 1) }

// Logout logs out at the next call, whatever it is, and leaves the sessions.
func (m *Module) Logout() { m.store(wLogout, 1) }

// MoveSlots changes the numbers of all slots by so much in all.
func (m *Module) MoveSlots(by uint) { m.store(wSlotOffset, uint64(by)) }

// Unplug takes the tokens out: no slot has one, their sessions are gone, and
// what is called in one says CKR_DEVICE_REMOVED.
func (m *Module) Unplug() {
	m.store(wUnplugged, 1)
	m.DropSessions()
}

// Plug puts the tokens back. Nobody is logged in.
func (m *Module) Plug() { m.store(wUnplugged, 0) }

// Wedge has every call say CKR_GENERAL_ERROR until C_Finalize was called.
func (m *Module) Wedge() { m.store(wWedged, 1) }

// FlipSignatures changes one bit in each of the next n signatures.
func (m *Module) FlipSignatures(n int) { m.store(wFlips, times(n)) }

// OtherKey names, by its label in the same token, the key for SwapSearch and
// SwapSignatures.
func (m *Module) OtherKey(label string) {
	text := make([]byte, otherLabelSize)
	if copy(text, label) == otherLabelSize {
		panic("faultmodule: the label of the other key is too long: " + label) //nolint:forbidigo // a test that is wrong
	}
	for i := range otherLabelSize / 8 {
		m.store(wOtherLabel+i, binary.NativeEndian.Uint64(text[i*8:]))
	}
}

// SwapSearch has searches by label or id find the other key.
func (m *Module) SwapSearch(on bool) { m.store(wSwapFind, flag(on)) }

// SwapSignatures has the other key sign, whichever was asked for.
func (m *Module) SwapSignatures(on bool) { m.store(wSwapSign, flag(on)) }

// MaxSessions has the token say that it has n sessions, and give out no more; 0
// leaves it to the library below.
func (m *Module) MaxSessions(n int) { m.store(wMaxSessions, uint64(n)) }

// Replay has a digest that was signed before get the same signature again, so
// that the token takes none of this machine's CPU, as a device does not. Only
// tests that sign the same digests gain by it.
func (m *Module) Replay(on bool) { m.store(wReplay, flag(on)) }

// Reset ends all faults and releases all calls. Counts stay, and so do slots
// where they were moved to.
func (m *Module) Reset() {
	for _, f := range functions {
		m.fail(f, 0, 0, 0, false)
		m.Release(f)
		m.Delay(f, 0)
	}
	for _, w := range []int{wDrop, wLogout, wUnplugged, wWedged, wFlips, wSwapFind, wSwapSign, wMaxSessions, wReplay} {
		m.store(w, 0)
	}
}

// Calls returns how often a function was called.
func (m *Module) Calls(function string) int { return int(m.load(at(function, fCalls))) }

// Signatures returns how many signatures were made.
func (m *Module) Signatures() int { return int(m.load(wSignatures)) }

// Running returns how many calls are in the module now.
func (m *Module) Running() int { return int(m.load(wCallsNow)) }

// OpenSessions returns how many sessions are open now.
func (m *Module) OpenSessions() int { return int(m.load(wOpen)) }

// PeakSessions returns how many sessions were open at most.
func (m *Module) PeakSessions() int { return int(m.load(wPeak)) }

// Violations returns which rules of PKCS#11 the caller broke, and how often.
func (m *Module) Violations() []string {
	var broken []string
	for i, v := range violations {
		if n := m.load(wViolations + i); n > 0 {
			broken = append(broken, fmt.Sprintf("%s (%d times)", v, n))
		}
	}
	return broken
}

// String shows the counts, for the messages of tests.
func (m *Module) String() string {
	var text strings.Builder
	for _, f := range functions {
		if n := m.Calls(f); n > 0 {
			fmt.Fprintf(&text, "%s %d, ", f, n)
		}
	}
	fmt.Fprintf(&text, "sessions open %d, at most %d", m.OpenSessions(), m.PeakSessions())
	return text.String()
}
