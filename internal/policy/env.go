package policy

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/mayfly-ca/mayfly/ca"
)

// Bounds on rules. They are constants because a rule that passes on one
// installation must pass on the next.
const (
	maxExpression = 4096 // code points
	maxNodes      = 2000 // after macros are expanded
	maxDepth      = 50
	maxRegexp     = 500 // size of the compiled program
	maxConditions = 50  // of one rule
	maxRules      = 200 // of one issuer
	// maxCost bounds one expression: about 20 times what the presets need with
	// 200 groups, and well below a millisecond.
	maxCost = 20_000
)

// futureSkew is how far a provider's clock may be ahead of ours in recent().
const futureSkew = 30 * time.Second

// facts are what rules may look at. They are a copy of the request, of which
// nothing else is kept, because whatever CEL is given goes to the heap.
type facts struct {
	id      ca.Identity
	claims  object
	keyType string
	source  netip.Addr
	api     string
	now     time.Time
}

func factsOf(r *ca.Request) *facts {
	f := &facts{id: r.Identity, claims: object{members: r.Identity.Claims}, source: r.Source.Unmap(), api: r.API, now: r.Time}
	if !r.Key.IsZero() {
		f.keyType = string(r.Key.Kind())
	}
	return f
}

// variable is a name that rules may use. The names have dots in them so that
// each has a type of its own, and a misspelt one is an error when the policy is
// made.
type variable struct {
	typ   *cel.Type
	value func(f *facts) ref.Val
}

var variables = map[string]variable{
	"claims":         {cel.DynType, func(f *facts) ref.Val { return &f.claims }},
	"now":            {cel.TimestampType, func(f *facts) ref.Val { return types.Timestamp{Time: f.now} }},
	"issuer.name":    {cel.StringType, func(f *facts) ref.Val { return types.String(f.id.IssuerName) }},
	"issuer.url":     {cel.StringType, func(f *facts) ref.Val { return types.String(f.id.Issuer) }},
	"issuer.address": {cel.StringType, func(f *facts) ref.Val { a, _ := address(f.id.Issuer); return types.String(a) }},
	"issuer.origin":  {cel.StringType, func(f *facts) ref.Val { _, o := address(f.id.Issuer); return types.String(o) }},
	"token.aud": {cel.ListType(cel.StringType), func(f *facts) ref.Val {
		return types.NewStringList(types.DefaultTypeAdapter, f.id.Token.Audience)
	}},
	"token.azp":            {cel.StringType, func(f *facts) ref.Val { return types.String(f.id.Token.AuthorizedParty) }},
	"token.kid":            {cel.StringType, func(f *facts) ref.Val { return types.String(f.id.Token.KeyID) }},
	"token.thumbprint":     {cel.StringType, func(f *facts) ref.Val { return types.String(f.id.Token.KeyThumbprint) }},
	"token.alg":            {cel.StringType, func(f *facts) ref.Val { return types.String(f.id.Token.Algorithm) }},
	"token.jti":            {cel.StringType, func(f *facts) ref.Val { return types.String(f.id.Token.ID) }},
	"token.iat":            {cel.TimestampType, func(f *facts) ref.Val { return types.Timestamp{Time: f.id.Token.IssuedAt} }},
	"token.exp":            {cel.TimestampType, func(f *facts) ref.Val { return types.Timestamp{Time: f.id.Token.Expires} }},
	"token.stale_keys":     {cel.BoolType, func(f *facts) ref.Val { return types.Bool(f.id.Token.StaleKeys) }},
	"token.email_verified": {cel.BoolType, func(f *facts) ref.Val { return types.Bool(f.id.EmailVerified) }},
	"request.key_type":     {cel.StringType, func(f *facts) ref.Val { return types.String(f.keyType) }},
	"request.source":       {cel.StringType, func(f *facts) ref.Val { return types.String(sourceText(f.source)) }},
	"request.api":          {cel.StringType, func(f *facts) ref.Val { return types.String(f.api) }},
}

func sourceText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.WithZone("").String()
}

// ResolveName implements cel.Activation: values are made when a rule asks.
func (f *facts) ResolveName(name string) (any, bool) {
	v, ok := variables[name]
	if !ok {
		return nil, false
	}
	return v.value(f), true
}

// Parent implements cel.Activation.
func (f *facts) Parent() cel.Activation { return nil }

// environment is made once: it is immutable, and making it takes longer than
// compiling a policy.
var environment = sync.OnceValues(newEnvironment)

// newEnvironment returns the language of rules: CEL's standard library, optional
// selection, and the functions of docs/policy.md. There is no network, no clock
// but now, and no text made into code.
func newEnvironment() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.OptionalTypes(cel.OptionalTypesVersion(1)),
		cel.EnableMacroCallTracking(),
		cel.EnableHiddenAccumulatorName(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(maxDepth),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegexp),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(),
			cel.ValidateComprehensionNestingLimit(2)),
		unary("email", cel.StringType, nameType, makeEmail),
		unary("spiffe", cel.StringType, nameType, makeSPIFFE),
		unary("path", cel.StringType, pathType, makePath),
		unary("list", cel.DynType, cel.ListType(cel.StringType), toList),
		unary("text", cel.DynType, cel.StringType, toText),
		unary("yes", cel.DynType, cel.BoolType, isYes),
		unary("ts", cel.DynType, cel.TimestampType, toTimestamp),
		unary("dns1123", cel.StringType, cel.StringType, checkDNS1123),
		binary("username", cel.StringType, cel.StringType, nameType, makeUsername),
		binary("workflow", cel.StringType, cel.StringType, nameType, makeWorkflow),
		binary("after", cel.StringType, cel.StringType, cel.StringType, cutPrefix),
		binary("in_network", cel.StringType, cel.StringType, cel.BoolType, inNetwork),
		cel.Function("recent", cel.Overload("recent", []*cel.Type{cel.DynType, cel.TimestampType, cel.DurationType}, cel.BoolType,
			cel.FunctionBinding(isRecent))),
		cel.Function("string", cel.Overload("name_to_string", []*cel.Type{nameType}, cel.StringType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return v.ConvertToType(types.StringType) }))),
		uriFunction(),
	}
	for name, v := range variables {
		options = append(options, cel.Variable(name, v.typ))
	}
	return cel.NewEnv(options...)
}

func unary(name string, arg, result *cel.Type, f func(ref.Val) ref.Val) cel.EnvOption {
	return cel.Function(name, cel.Overload(name, []*cel.Type{arg}, result, cel.UnaryBinding(f)))
}

func binary(name string, a, b, result *cel.Type, f func(a, b ref.Val) ref.Val) cel.EnvOption {
	return cel.Function(name, cel.Overload(name, []*cel.Type{a, b}, result, cel.BinaryBinding(f)))
}

// uriFunction declares uri(base, segment, ...): CEL has no variadic functions,
// so there is one overload for each number of segments.
func uriFunction() cel.EnvOption {
	args := []*cel.Type{cel.StringType}
	var overloads []cel.FunctionOpt
	for n := range maxSegments + 1 {
		binding := cel.FunctionBinding(makeURI)
		switch n {
		case 0:
			binding = cel.UnaryBinding(func(v ref.Val) ref.Val { return makeURI(v) })
		case 1:
			binding = cel.BinaryBinding(func(a, b ref.Val) ref.Val { return makeURI(a, b) })
		}
		overloads = append(overloads, cel.Overload("uri_"+strconv.Itoa(n), slices.Clone(args), nameType, binding))
		args = append(args, cel.DynType)
	}
	return cel.Function("uri", overloads...)
}

// present unwraps an optional; ok is false when it holds nothing, and for null.
func present(v ref.Val) (ref.Val, bool) {
	if o, optional := v.(*types.Optional); optional {
		if !o.HasValue() {
			return nil, false
		}
		v = o.GetValue()
	}
	return v, v != types.NullValue
}

// toList makes a list of strings of what providers write for lists: AD FS and
// Entra ID send one string where there is one value. Nothing, as an optional
// selection, is the empty list; an absent claim without "?" never gets here.
func toList(arg ref.Val) ref.Val {
	v, ok := present(arg)
	if !ok {
		return types.NewStringList(types.DefaultTypeAdapter, nil)
	}
	if s, ok := v.(types.String); ok {
		return types.NewStringList(types.DefaultTypeAdapter, []string{string(s)})
	}
	lister, ok := v.(traits.Lister)
	if !ok {
		return types.WrapErr(&claimError{fmt.Sprintf("list() of a %s", v.Type().TypeName())})
	}
	var all []string
	add := func(member any) bool {
		switch s := member.(type) {
		case string:
			all = append(all, s)
		case types.String:
			all = append(all, string(s))
		default:
			return false
		}
		return true
	}
	// The list of a claim is what was decoded, and needs no conversion twice.
	whole := true
	if decoded, ok := lister.Value().([]any); ok {
		for i := 0; i < len(decoded) && whole; i++ {
			whole = add(decoded[i])
		}
	} else {
		for it := lister.Iterator(); it.HasNext() == types.True && whole; {
			whole = add(it.Next())
		}
	}
	if !whole {
		return types.WrapErr(&claimError{"list() of something that has not only strings in it"})
	}
	return types.NewStringList(types.DefaultTypeAdapter, all)
}

// toText makes text of strings, whole numbers and booleans, as Fulcio's
// templates do, and of nothing and null the empty text. Lists and objects have
// no text.
func toText(arg ref.Val) ref.Val {
	v, ok := present(arg)
	if !ok {
		return types.String("")
	}
	switch v := v.(type) {
	case types.String:
		return v
	case types.Int, types.Uint, types.Bool:
		return v.ConvertToType(types.StringType)
	}
	return types.WrapErr(&claimError{fmt.Sprintf("text() of a %s", v.Type().TypeName())})
}

// isYes knows the forms in which providers say yes: true, "true", 1 and "1".
func isYes(arg ref.Val) ref.Val {
	v, ok := present(arg)
	if !ok {
		return types.False
	}
	return types.Bool(v == types.True || v == types.Int(1) || v == types.String("1") || v == types.String("true"))
}

// toTimestamp reads seconds since 1970, written as a number or its digits.
func toTimestamp(arg ref.Val) ref.Val {
	v, _ := present(arg)
	seconds := int64(-1)
	switch v := v.(type) {
	case types.Int:
		seconds = int64(v)
	case types.Double:
		if f := float64(v); f == math.Trunc(f) && f >= 0 && f < 1e15 {
			seconds = int64(f)
		}
	case types.String:
		if n, err := strconv.ParseUint(string(v), 10, 62); err == nil {
			seconds = int64(n)
		}
	}
	// The year 9999 is where CEL's timestamps end.
	if seconds < 0 || seconds > 253402300799 {
		return types.WrapErr(&claimError{"ts() of something that is no time in seconds since 1970"})
	}
	return types.Timestamp{Time: time.Unix(seconds, 0).UTC()}
}

// isRecent reports whether a time lies not further back than a duration and,
// but for the provider's clock, not in the future.
func isRecent(args ...ref.Val) ref.Val {
	at := toTimestamp(args[0])
	t, ok := at.(types.Timestamp)
	now, ok2 := args[1].(types.Timestamp)
	age, ok3 := args[2].(types.Duration)
	if !ok || !ok2 || !ok3 {
		return types.MaybeNoSuchOverloadErr(at)
	}
	since := now.Sub(t.Time)
	return types.Bool(since <= age.Duration && since >= -futureSkew)
}

// cutPrefix returns what follows a prefix that must be there.
func cutPrefix(text, prefix ref.Val) ref.Val {
	s, ok := text.(types.String)
	p, ok2 := prefix.(types.String)
	if !ok || !ok2 {
		return types.MaybeNoSuchOverloadErr(text)
	}
	rest, found := strings.CutPrefix(string(s), string(p))
	if !found {
		return refuseName("%q does not begin with %q", string(s), string(p))
	}
	return types.String(rest)
}

// checkDNS1123 returns its argument if it is a lower-case DNS name, as
// Kubernetes demands of namespaces and service accounts (RFC 1123).
func checkDNS1123(arg ref.Val) ref.Val {
	s, ok := arg.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(arg)
	}
	if len(s) == 0 || len(s) > 253 {
		return refuseName("%q is not a DNS-1123 name", string(s))
	}
	for label := range strings.SplitSeq(string(s), ".") {
		bad := label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-'
		if bad || strings.ContainsFunc(label, func(r rune) bool { return (!isAlphanumeric(r) || r >= 'A' && r <= 'Z') && r != '-' }) {
			return refuseName("%q is not a DNS-1123 name", string(s))
		}
	}
	return s
}

// inNetwork reports whether an address lies in a network in CIDR notation.
func inNetwork(addr, network ref.Val) ref.Val {
	a, ok := addr.(types.String)
	n, ok2 := network.(types.String)
	if !ok || !ok2 {
		return types.MaybeNoSuchOverloadErr(addr)
	}
	prefix, err := netip.ParsePrefix(string(n))
	if err != nil {
		return types.WrapErr(&claimError{fmt.Sprintf("%q is no network such as 10.0.0.0/8", string(n))})
	}
	ip, err := netip.ParseAddr(string(a))
	return types.Bool(err == nil && prefix.Contains(ip))
}
