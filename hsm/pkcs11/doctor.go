package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// Level says how much a finding matters.
type Level int

// The levels of findings. With a Problem the service would not start, or would
// not sign; a Warning is something that its administrator should change.
const (
	OK Level = iota
	Note
	Warning
	Problem
)

func (l Level) String() string {
	if l < OK || l > Problem {
		return fmt.Sprintf("level %d", int(l))
	}
	return [...]string{"ok", "note", "warning", "problem"}[l]
}

// Finding is what an examination found out, in plain words.
type Finding struct {
	Level Level
	// Check is what was looked at: library, token, pin, login, sessions,
	// mechanism, or the name of a key.
	Check string
	Text  string
	// Do says what to do about it; empty for what is as it should be.
	Do string
}

// DoctorConfig says what to examine.
type DoctorConfig struct {
	Token TokenConfig
	// Keys are those that the configuration has in this token. Public may be nil
	// when there is no certificate yet.
	Keys []KeyConfig
	// Throughput is for how long each of two measurements signs; default 1s.
	Throughput time.Duration
	// Report is told each finding as it is made, by the caller's goroutine: when
	// the library hangs, the last one tells where. Required.
	Report func(Finding)
}

// Doctor examines a token from the library's file to the rate of its signatures
// and reports everything in plain words. It stops early where going on could do
// harm: it logs in once, and not at all when the next wrong PIN could lock the
// token. It changes nothing in the token. Its error means that the examination
// did not come to its end; problems are findings.
func Doctor(ctx context.Context, c DoctorConfig) error {
	if c.Report == nil {
		return errors.New("pkcs11: nobody listens to the findings")
	}
	if c.Throughput <= 0 {
		c.Throughput = time.Second
	}
	if c.Token.MaxSessions <= 0 {
		c.Token.MaxSessions = DefaultMaxSessions
	}
	findings, ended := make(chan Finding), make(chan error, 1)
	d := &doctor{config: c, say: func(f Finding) {
		select {
		case findings <- f:
		case <-ctx.Done():
		}
	}}
	go func() { ended <- d.run(ctx) }()
	for {
		select {
		case f := <-findings:
			c.Report(f)
		case err := <-ended:
			return err
		case <-ctx.Done():
			return fmt.Errorf("pkcs11: examining token %q: the library has not answered what comes after the last line: %w", c.Token.Name, ctx.Err())
		}
	}
}

type doctor struct {
	config DoctorConfig
	say    func(Finding)
	visit  *visitor
	// extra are sessions beside the visit's own.
	extra []p11.SessionHandle
}

func (d *doctor) report(l Level, check, do, format string, args ...any) {
	d.say(Finding{Level: l, Check: check, Text: fmt.Sprintf(format, args...), Do: do})
}

// run examines, and takes a library that does not let itself be used for a
// finding too.
func (d *doctor) run(ctx context.Context) error {
	err := visit(ctx, d.config.Token.Module, func(a api) error {
		d.examine(ctx, a)
		return nil
	})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("pkcs11: examining token %q: %w", d.config.Token.Name, err)
	}
	d.report(Problem, "library", "correct tokens[].module, or the library's file and what it needs", "%v", err)
	return nil
}

// examine goes from the outside to the inside and stops where the next step
// could not work.
func (d *doctor) examine(ctx context.Context, a api) {
	library, err := describe(a, d.config.Token.Module)
	if err != nil {
		d.report(Problem, "library", "the library does not work at all: look at its own log", "%v", err)
		return
	}
	d.report(OK, "library", "", "%s: %s by %s, version %s, Cryptoki %s; root alone can change it; sha256 %s",
		library.Path, library.Description, library.Manufacturer, library.Version, library.Cryptoki, library.SHA256)
	entry, err := choose(a, d.config.Token)
	if err != nil {
		d.report(Problem, "token", "see whether the device and its daemon run and the library's own configuration is readable by this user; or correct the entry in tokens: mayfly hsm list prints one for each token", "%v", err)
		return
	}
	d.visit = newVisitor(a, d.config.Token)
	d.visit.entry = entry
	d.token()
	if !d.pinAllows() || !d.login() {
		return
	}
	defer d.leave()
	d.sessions()
	d.mechanisms()
	d.keys(ctx)
}

func (d *doctor) leave() {
	for _, s := range append(d.extra, d.visit.session) {
		_ = d.visit.lib.CloseSession(s) // nothing depends on it any more
	}
}

func (d *doctor) token() {
	e := d.visit.entry
	d.report(OK, "token", "", "%s in slot %d, firmware %s", e.URI, e.Slot, e.Firmware)
	slot, err := d.visit.lib.GetSlotInfo(e.Slot)
	if err == nil && slot.Flags&p11.CKF_HW_SLOT == 0 {
		d.report(Note, "token", "use it for trials, or know why", "the library says that this slot is no hardware: the key is as safe as the files it lies in")
	}
	if e.flags&p11.CKF_ERROR_STATE != 0 {
		d.report(Problem, "token", "see the device's manual: a failed self-test needs its maker or a restart", "the token is in its error state")
	}
	if e.flags&p11.CKF_LOGIN_REQUIRED == 0 {
		d.report(Warning, "token", "set up the token so that its keys need a login", "the token asks for no login: whoever reaches the library can sign")
	}
	if e.flags&p11.CKF_WRITE_PROTECTED != 0 {
		d.report(Note, "token", "nothing for signing; keygen needs it writable", "the token is write-protected")
	}
}

// pinAllows reports whether an attempt to log in can do no harm.
func (d *doctor) pinAllows() bool {
	e := d.visit.entry
	const check = "pin"
	switch {
	case e.flags&p11.CKF_USER_PIN_LOCKED != 0:
		d.report(Problem, check, "have the token's security officer set the PIN anew (SoftHSM and many others: C_InitPIN by their own tool), and find out who tried", "the user PIN is locked")
	case e.flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		d.report(Problem, check, "make sure that the PIN file is right, then log in once with the token's own tool: a right PIN resets the counter. Mayfly does not take the last attempt", "one more wrong PIN locks the token; it was not tried")
	case e.flags&p11.CKF_USER_PIN_TO_BE_CHANGED != 0:
		d.report(Problem, check, "change the PIN with the token's own tool and write the new one to the PIN file", "the token wants the PIN changed before it lets anybody sign")
	case e.flags&p11.CKF_USER_PIN_INITIALIZED == 0 && e.flags&p11.CKF_LOGIN_REQUIRED != 0:
		d.report(Problem, check, "have the security officer set a user PIN", "the token has no user PIN")
	case e.flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0:
		d.report(Problem, check, "use a token or a mode that takes the PIN from the application", "the token wants the PIN on its own keypad, which a service cannot type on")
	case e.flags&p11.CKF_USER_PIN_COUNT_LOW != 0:
		d.report(Warning, check, "find out who: Mayfly tries a PIN once at each start and never again", "a wrong PIN was tried since the last login")
		return true
	default:
		d.report(OK, check, "", "no wrong PIN was tried since the last login, as far as the token tells")
		return true
	}
	return false
}

func (d *doctor) login() bool {
	const check = "login"
	v := d.visit
	var err error
	if v.session, err = v.lib.OpenSession(v.entry.Slot, p11.CKF_SERIAL_SESSION); err != nil {
		d.report(Problem, check, "see how many sessions other programs hold in this token, and its limit", "opening the first session: %v", err)
		return false
	}
	if err = v.login(v.session, p11.CKU_USER); err == nil {
		d.report(OK, check, "", "the PIN of %s was accepted", d.config.Token.PINFile)
		return true
	}
	do := "look at the PIN file and at the token's own log"
	if errors.Is(err, p11.Error(p11.CKR_PIN_INCORRECT)) {
		do = "correct the PIN file before anything else is tried: every start of the service costs another attempt"
	}
	d.report(Problem, check, do, "%v", err)
	_ = v.lib.CloseSession(v.session) // it is of no use
	return false
}

// sessions opens as many as the service would.
func (d *doctor) sessions() {
	want := d.config.Token.MaxSessions
	var err error
	for len(d.extra)+1 < want && err == nil {
		var s p11.SessionHandle
		if s, err = d.visit.lib.OpenSession(d.visit.entry.Slot, p11.CKF_SERIAL_SESSION); err == nil {
			d.extra = append(d.extra, s)
		}
	}
	limit := fmt.Sprint(d.visit.entry.maxSessions)
	switch d.visit.entry.maxSessions {
	case p11.CK_EFFECTIVELY_INFINITE:
		limit = "no limit"
	case p11.CK_UNAVAILABLE_INFORMATION:
		limit = "nothing"
	}
	got := len(d.extra) + 1
	switch {
	case err == nil:
		d.report(OK, "sessions", "", "%d of max_sessions %d open at once; the token says of its limit: %s", got, want, limit)
	case got < 2:
		d.report(Problem, "sessions", "end other programs that hold sessions, or raise the token's limit", "one session opens and no second: one stays logged in, and one signs (%v); the token says of its limit: %s", err, limit)
	default:
		d.report(Warning, "sessions", fmt.Sprintf("set max_sessions: %d, or less if others use the token too", got), "only %d of max_sessions %d open at once (%v); the token says of its limit: %s", got, want, err, limit)
	}
}

// signing are the mechanisms that the service signs with.
var signing = []struct {
	mechanism uint
	name, use string
}{
	{p11.CKM_ECDSA, "CKM_ECDSA", "ecdsa"},
	{p11.CKM_RSA_PKCS, "CKM_RSA_PKCS", "rsa"},
}

func (d *doctor) mechanisms() {
	for _, s := range signing {
		info, err := d.visit.lib.GetMechanismInfo(d.visit.entry.Slot, []*p11.Mechanism{p11.NewMechanism(s.mechanism, nil)})
		switch {
		case err != nil:
			d.report(Note, "mechanism", "nothing, unless a key of this kind is wanted", "%s is not there (%v): no %s key can sign", s.name, err, s.use)
		case info.Flags&p11.CKF_SIGN == 0:
			d.report(Note, "mechanism", "nothing, unless a key of this kind is wanted", "%s is there but not for signing: no %s key can sign", s.name, s.use)
		default:
			d.report(OK, "mechanism", "", "%s signs with keys of %d to %d bits", s.name, info.MinKeySize, info.MaxKeySize)
		}
	}
}

func (d *doctor) keys(ctx context.Context) {
	if len(d.config.Keys) == 0 {
		d.report(Note, "key", "name one in chains[].key; mayfly hsm list shows what there is, mayfly hsm keygen makes one", "the configuration has no key in this token")
	}
	for _, k := range d.config.Keys {
		o, err := d.visit.key(k)
		if err != nil {
			do := "correct chains[].key; mayfly hsm list shows what the token holds"
			if errors.Is(err, errAbsent) {
				do = "make it with mayfly hsm keygen, or correct chains[].key"
			}
			d.report(Problem, k.Name, do, "%v", err)
			continue
		}
		d.report(OK, k.Name, "", "%s key %s", o.Algorithm, o.URI)
		d.attributes(k, o)
		if d.publicKey(k, &o) {
			d.signs(ctx, k, o)
		}
	}
}

// attributes judges what the token says about a key.
func (d *doctor) attributes(k KeyConfig, o Object) {
	level, do := Problem, "make a new key with mayfly hsm keygen and rotate to it; allow_extractable: true accepts this one as it is"
	if k.AllowExtractable {
		level, do = Warning, "allow_extractable accepts it; rotate to a key that never leaves the token"
	}
	if f := o.Flag("CKA_EXTRACTABLE"); f.Known && f.Value {
		d.report(level, k.Name, do, "CKA_EXTRACTABLE is true: the key can leave the token")
	} else if !f.Known {
		d.report(level, k.Name, do, "the token does not tell CKA_EXTRACTABLE")
	}
	if f := o.Flag("CKA_SENSITIVE"); f.Known && !f.Value {
		d.report(level, k.Name, do, "CKA_SENSITIVE is false: the key can be read in the clear")
	} else if !f.Known {
		d.report(level, k.Name, do, "the token does not tell CKA_SENSITIVE")
	}
	if f := o.Flag("CKA_SIGN"); f.Known && !f.Value {
		d.report(Problem, k.Name, "take a key that may sign", "CKA_SIGN is false")
	}
	for _, name := range []string{"CKA_LOCAL", "CKA_ALWAYS_SENSITIVE", "CKA_NEVER_EXTRACTABLE"} {
		if f := o.Flag(name); f.Known && !f.Value {
			d.report(Note, k.Name, "know where the key came from: copies may exist outside of the token", "%s is false: the key was not always locked in this token (so it is for a cloned one)", name)
		}
	}
	for _, name := range []string{"CKA_DECRYPT", "CKA_UNWRAP", "CKA_DERIVE"} {
		if f := o.Flag(name); f.Known && f.Value {
			d.report(Note, k.Name, "keys from mayfly hsm keygen may sign and nothing else", "%s is true: whoever has the PIN can use the key for more than signatures", name)
		}
	}
	if f := o.Flag("CKA_ALWAYS_AUTHENTICATE"); f.Known && f.Value {
		d.report(Note, k.Name, "nothing; expect half the rate", "the token wants the PIN for each signature")
	}
}

// publicKey compares with the certificate, and says whether there is a key that
// a signature can be verified under.
func (d *doctor) publicKey(k KeyConfig, o *Object) bool {
	switch {
	case o.Public == nil && k.Public == nil:
		d.report(Problem, k.Name, "put the public key into the token beside the private one, or name the chain's certificate", "the token tells the public key nowhere, and there is no certificate: nothing can be verified")
		return false
	case o.Public == nil:
		o.Public = k.Public
		d.report(Note, k.Name, "nothing; the test signature below decides", "the token tells the public key nowhere: taking the certificate's")
	case k.Public == nil:
		d.report(Note, k.Name, "have the key certified: mayfly ca csr makes the request", "there is no certificate for this key yet; public key sha256 %s", o.Fingerprint())
	case !equal(k.Public, o.Public):
		d.report(Problem, k.Name, "correct chains[].key or chains[].certificates: they belong to different keys", "the certificate is for another key: its public key has the sha256 %s, the token's %s", fingerprint(k.Public), o.Fingerprint())
		return false
	default:
		d.report(OK, k.Name, "", "it is the key of the configured certificate; public key sha256 %s", o.Fingerprint())
	}
	if !slices.Contains(Algorithms, algorithmOf(o.Public)) {
		d.report(Problem, k.Name, "take P-256, P-384 or RSA 2048, 3072 or 4096", "Mayfly does not sign with such a key: no client accepts it")
		return false
	}
	return true
}
