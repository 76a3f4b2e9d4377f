package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// Algorithms are the kinds of key that Generate makes, the recommended first.
var Algorithms = []string{"ecdsa-p384", "ecdsa-p256", "rsa-4096", "rsa-3072", "rsa-2048"}

// GenerateConfig says what key to make.
type GenerateConfig struct {
	// Object is the label of both halves. Required.
	Object string
	// ID is the CKA_ID of both halves; empty for one that the token's random
	// generator gives: 20 bytes, or 2 in a YubiHSM, which has room for no more.
	ID []byte
	// Algorithm is one of Algorithms; default the first.
	Algorithm string
}

// Asked is an attribute that was asked for, beside what the token then said.
type Asked struct {
	// Object is "private" or "public".
	Object string
	// Name is the attribute's, such as CKA_SENSITIVE.
	Name string
	// Want and Got are true, false, or for Got that it was not told.
	Want, Got string
}

// Generated is a key that was made, with what its ceremony's minutes need.
type Generated struct {
	Library Library
	Token   Entry
	Key     Object
	// Attributes are those that were asked for.
	Attributes []Asked
	// Notes say what was not as asked for and was put up with.
	Notes []string
	// Message is what was signed as a test: its SHA-256 was, and Signature is
	// what the token answered. It verifies under the public key.
	Message   string
	Signature []byte
	// Started and Took tell when the token was asked, and how long it worked.
	Started time.Time
	Took    time.Duration
}

// Generate makes a key pair in a token and tests it. A label or an id that is in
// use is refused before anything is made. Nothing is ever deleted: when the token
// made something else than was asked for, the error says so and the key stays for
// the token's administrator to judge; what is known of it by then is returned
// beside the error.
func Generate(ctx context.Context, c TokenConfig, g GenerateConfig) (*Generated, error) {
	if g.Algorithm == "" {
		g.Algorithm = Algorithms[0]
	}
	var err error
	switch {
	case !slices.Contains(Algorithms, g.Algorithm):
		err = fmt.Errorf("algorithm %q is not known; use one of %s", g.Algorithm, strings.Join(Algorithms, ", "))
	case g.Object == "" || len(g.Object) > 64 || strings.ContainsFunc(g.Object, func(r rune) bool { return r < ' ' || r == 0x7f }):
		err = fmt.Errorf("label %q is not usable: write 1 to 64 visible characters", g.Object)
	case len(g.ID) > 64:
		err = fmt.Errorf("id of %d bytes is too long: use 1 to 64", len(g.ID))
	}
	var made *Generated
	if err == nil {
		made, err = inToken(ctx, c, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION, func(v *visitor) (*Generated, error) {
			return v.generate(ctx, c.Module, g)
		})
	}
	switch {
	case err == nil:
		return made, nil
	case made == nil && ctx.Err() != nil:
		return nil, fmt.Errorf("pkcs11: making key %q in token %q: %w. The token may make it all the same: list its keys before you try again", g.Object, c.Name, err)
	default:
		return made, fmt.Errorf("pkcs11: making key %q in token %q: %w", g.Object, c.Name, err)
	}
}

func (v *visitor) generate(ctx context.Context, module string, g GenerateConfig) (*Generated, error) {
	made := &Generated{Token: v.entry, Started: v.clock()}
	var err error
	if made.Library, err = describe(v.lib, module); err != nil {
		return nil, err
	}
	if err := v.free(p11.CKA_LABEL, "label", []byte(g.Object)); err != nil {
		return nil, err
	}
	if len(g.ID) == 0 {
		if g.ID, err = v.newID(); err != nil {
			return nil, err
		}
	}
	if err := v.free(p11.CKA_ID, "id", g.ID); err != nil {
		return nil, err
	}
	// The last moment at which nothing has happened.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	public, private, err := v.makePair(g, made)
	if err != nil {
		return nil, err
	}
	made.Took = v.clock().Sub(made.Started)
	if err := v.judge(g, made, public, private); err != nil {
		return made, fmt.Errorf("%w. The key is in the token and was not touched further: decide about it with the token's own tools", err)
	}
	return made, nil
}

// free refuses a name that any object of the token has: two keys of one name are
// how the wrong one comes to sign.
func (v *visitor) free(attribute uint, what string, name []byte) error {
	found, err := objects(v.lib, v.session, []*p11.Attribute{p11.NewAttribute(attribute, name)})
	if err != nil {
		return err
	}
	if len(found) > 0 {
		shown := string(name)
		if attribute == p11.CKA_ID {
			shown = fmt.Sprintf("%x", name)
		}
		return fmt.Errorf("the token already holds %s with the %s %q; nothing is overwritten: choose another, or use the key that there is", count(len(found), "object"), what, shown)
	}
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// newID asks the token for an id nobody else has, so that a search by id finds
// one key even where labels were copied.
func (v *visitor) newID() ([]byte, error) {
	n := 20
	if strings.HasPrefix(v.entry.Manufacturer, "Yubico") {
		// A YubiHSM's objects are numbered with 16 bits.
		n = 2
	}
	id, err := v.lib.GenerateRandom(v.session, n)
	if err != nil {
		return nil, fmt.Errorf("asking the token for random bytes: %w", err)
	}
	if len(id) != n || bytes.Count(id, id[:1]) == n {
		return nil, fmt.Errorf("the token's random generator answered %x to a request for %d bytes", id, n)
	}
	return id, nil
}

// template is an attribute that is asked for.
type template struct {
	attribute uint
	name      string
	value     bool
}

// What a private key of a certificate authority may do: sign, and nothing else;
// above all it never leaves the token.
var privateTemplate = []template{
	{p11.CKA_TOKEN, "CKA_TOKEN", true},
	{p11.CKA_PRIVATE, "CKA_PRIVATE", true},
	{p11.CKA_SENSITIVE, "CKA_SENSITIVE", true},
	{p11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false},
	{p11.CKA_SIGN, "CKA_SIGN", true},
	{p11.CKA_DECRYPT, "CKA_DECRYPT", false},
	{p11.CKA_UNWRAP, "CKA_UNWRAP", false},
	{p11.CKA_DERIVE, "CKA_DERIVE", false},
}

// unmodifiable is asked for where the token lets it be asked for.
var unmodifiable = template{p11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false}

// What a token says of a key that it made itself, without being asked.
var madeInside = []template{
	{p11.CKA_LOCAL, "CKA_LOCAL", true},
	{p11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true},
	{p11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true},
}

func attributes(list []template) []*p11.Attribute {
	var all []*p11.Attribute
	for _, t := range list {
		all = append(all, p11.NewAttribute(t.attribute, t.value))
	}
	return all
}

// makePair asks the token for the pair. Tokens that do not know CKA_MODIFIABLE
// refuse the template and have made nothing; any other error may have left a key
// behind, and is not tried again.
func (v *visitor) makePair(g GenerateConfig, made *Generated) (public, private p11.ObjectHandle, err error) {
	mechanism, kind := keyKind(g.Algorithm)
	names := []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, g.Object), p11.NewAttribute(p11.CKA_ID, g.ID)}
	publicAttributes := slices.Concat(names, kind, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_VERIFY, true),
	})
	try := func(list []template) error {
		public, private, err = v.lib.GenerateKeyPair(v.session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)},
			publicAttributes, slices.Concat(names, attributes(list)))
		return err
	}
	if err = try(append(slices.Clone(privateTemplate), unmodifiable)); refusedTemplate(err) {
		made.Notes = append(made.Notes, "the token did not accept CKA_MODIFIABLE false: whoever has the PIN can change the key's label and id")
		err = try(privateTemplate)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("generating %s: %w", g.Algorithm, err)
	}
	return public, private, nil
}

func refusedTemplate(err error) bool {
	code, ok := errors.AsType[p11.Error](err)
	return ok && slices.Contains([]p11.Error{
		p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_ATTRIBUTE_READ_ONLY, p11.CKR_TEMPLATE_INCONSISTENT,
	}, code)
}

// curves are CKA_EC_PARAMS: the DER of the curves' names, RFC 5480, Section
// 2.1.1.1.
var curves = map[string][]byte{
	"ecdsa-p256": {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07},
	"ecdsa-p384": {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22},
}

func keyKind(algorithm string) (mechanism uint, public []*p11.Attribute) {
	if curve := curves[algorithm]; curve != nil {
		return p11.CKM_EC_KEY_PAIR_GEN, []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, curve)}
	}
	bits := map[string]uint{"rsa-2048": 2048, "rsa-3072": 3072, "rsa-4096": 4096}[algorithm]
	return p11.CKM_RSA_PKCS_KEY_PAIR_GEN, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_MODULUS_BITS, bits), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	}
}

// judge reads back what the token made and has it sign. An attribute that the
// token does not tell is a note; one that it tells otherwise is an error: there
// are tokens that ignore a template that they do not like.
func (v *visitor) judge(g GenerateConfig, made *Generated, public, private p11.ObjectHandle) error {
	var err error
	if made.Key, err = v.object(private); err != nil {
		return fmt.Errorf("reading the new key back: %w", err)
	}
	var wrong []string
	check := func(list []template, required bool) {
		for _, t := range list {
			got := made.Key.Flag(t.name)
			made.Attributes = append(made.Attributes, Asked{Object: "private", Name: t.name, Want: fmt.Sprint(t.value), Got: got.String()})
			switch {
			case !got.Known:
				made.Notes = append(made.Notes, "the token does not tell "+t.name)
			case got.Value != t.value && required:
				wrong = append(wrong, fmt.Sprintf("%s is %v", t.name, got.Value))
			case got.Value != t.value:
				made.Notes = append(made.Notes, fmt.Sprintf("%s is %v, although it should be %v", t.name, got.Value, t.value))
			}
		}
	}
	check(privateTemplate, true)
	check([]template{unmodifiable}, false)
	check(madeInside, true)
	// The token's own word, not the search by id of which object belongs to which.
	if made.Key.Public, err = readPublic(v.lib, v.session, public); err != nil {
		return fmt.Errorf("reading the new public key back: %w", err)
	}
	made.Key.PublicFrom, made.Key.Algorithm = "public key", algorithmOf(made.Key.Public)
	switch {
	case len(wrong) > 0:
		return fmt.Errorf("the token did not make the key as asked: %s", strings.Join(wrong, ", "))
	case made.Key.Label != g.Object || !bytes.Equal(made.Key.ID, g.ID):
		return fmt.Errorf("the token named the key %q with id %x, and was asked for %q with id %x", made.Key.Label, made.Key.ID, g.Object, g.ID)
	case made.Key.Algorithm != g.Algorithm:
		return fmt.Errorf("the token made a key of the kind %q, and was asked for %q", made.Key.Algorithm, g.Algorithm)
	}
	twins, err := objects(v.lib, v.session, keyTemplate(p11.CKO_PRIVATE_KEY, g.Object, nil))
	if err != nil {
		return fmt.Errorf("looking for others of the new key's name: %w", err)
	}
	if len(twins) != 1 {
		return fmt.Errorf("the token now holds %s with the label %q: another was made at the same time, and a configuration that says this label means neither", count(len(twins), "private key"), g.Object)
	}
	made.Message = "mayfly hsm keygen test " + rand.Text()
	digest := sha256.Sum256([]byte(made.Message))
	made.Signature, err = v.sign(v.session, made.Key, digest[:])
	if err != nil {
		return fmt.Errorf("testing the new key: %w", err)
	}
	return nil
}
