package policy

import (
	"errors"
	"fmt"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/mayfly-ca/mayfly/ca"
)

// Rule says who gets a certificate and what it says. All expressions are CEL.
type Rule struct {
	// Name goes into the decision and the journal. Required, unique within the
	// issuer.
	Name string
	// When is the condition; "true" is everybody. Required.
	When string
	// SAN makes the name, by one of the constructors email(), uri(), workflow(),
	// spiffe() and username(). Required.
	SAN string
	// Extensions are the build facts of the certificate.
	Extensions []RuleExtension
	// Profile and Authority name the certificate profile and the authority to
	// issue from; empty means "default".
	Profile, Authority string
}

// RuleExtension is one Fulcio extension, 1.3.6.1.4.1.57264.1.Number. Value makes
// a text, or a name of which the text is taken; an empty one is left out.
type RuleExtension struct {
	Number int
	Value  string
}

// rule is a compiled Rule.
type rule struct {
	Rule
	// conditions are the parts of When that "&&" joins.
	conditions []condition
	// values are what SAN and Extensions make, each text once: the name of a
	// pipeline stands in several extensions, too. The first is the SAN's.
	values     []cel.Program
	extensions []extension
	// claims are the claims that the rule reads, for groups that are left out.
	claims map[string]bool
}

type condition struct {
	text    string
	program cel.Program
	// node is the checked expression, for explanations.
	node ast.Expr
	// login are the claims about the login that it reads, if it reads nothing
	// else.
	login map[string]bool
}

// extension takes its text from values[value].
type extension struct{ number, value int }

func (e extension) String() string { return fmt.Sprintf("extension %d", e.number) }

// compile checks a rule of an issuer.
func compile(env *cel.Env, r Rule, trusted []string) (*rule, error) {
	if r.Name == "" || len(r.Name) > 100 || checkText(r.Name) != nil {
		return nil, fmt.Errorf("rule name %q is empty, too long or not plain text", r.Name)
	}
	c := &rule{Rule: r, claims: map[string]bool{}}
	when, err := parse(env, r.When, cel.BoolType)
	if err != nil {
		return nil, fmt.Errorf("when: %w", err)
	}
	if err := c.compileConditions(env); err != nil {
		return nil, fmt.Errorf("when: %w", err)
	}
	san, err := parse(env, r.SAN, nameType)
	if err != nil {
		return nil, fmt.Errorf("san: %w", err)
	}
	made, err := program(env, san)
	if err != nil {
		return nil, fmt.Errorf("san: %w", err)
	}
	c.values = []cel.Program{made}
	checked, err := c.compileExtensions(env, []part{{"when", when}, {"san", san}})
	if err != nil {
		return nil, err
	}
	return c, c.lint(checked, trusted)
}

// compileExtensions appends the extensions to what was checked so far.
func (c *rule) compileExtensions(env *cel.Env, checked []part) ([]part, error) {
	texts := []string{c.SAN}
	seen := map[int]bool{}
	for _, e := range c.Extensions {
		where := fmt.Sprintf("extension %d", e.Number)
		if seen[e.Number] || e.Number < 2 || e.Number > 23 || e.Number == 7 || e.Number == 8 {
			return nil, fmt.Errorf("%s is given twice or is none of 2 to 6 and 9 to 23", where)
		}
		seen[e.Number] = true
		value, err := parse(env, e.Value, cel.StringType, nameType)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		at := slices.Index(texts, e.Value)
		if at < 0 {
			p, err := program(env, value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			at = len(texts)
			texts, c.values = append(texts, e.Value), append(c.values, p)
		}
		c.extensions = append(c.extensions, extension{e.Number, at})
		checked = append(checked, part{where, value})
	}
	slices.SortFunc(c.extensions, func(x, y extension) int { return x.number - y.number })
	return checked, nil
}

// part is one checked expression of a rule.
type part struct {
	where string
	ast   *cel.Ast
}

// parse checks an expression, whose type must be one of those given or known
// only when it runs. A name's type must be known: nothing but a constructor
// makes one.
func parse(env *cel.Env, text string, want ...*cel.Type) (*cel.Ast, error) {
	if text == "" {
		return nil, errors.New("required")
	}
	checked, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		return nil, issues.Err()
	}
	got := checked.OutputType()
	if got.IsExactType(types.DynType) && want[0] != nameType {
		return checked, nil
	}
	if !slices.ContainsFunc(want, got.IsExactType) {
		return nil, fmt.Errorf("the expression is a %s, not a %s", got, want[0])
	}
	return checked, nil
}

// And returns the condition that holds when both do. Each must be an expression
// by itself: "a) || (b" is none, but would be one inside of parentheses.
func And(x, y string) (string, error) {
	env, err := environment()
	if err != nil {
		return "", fmt.Errorf("policy: making the language of rules: %w", err)
	}
	for _, text := range []string{x, y} {
		if _, issues := env.Parse(text); issues != nil && issues.Err() != nil {
			return "", fmt.Errorf("policy: %w", issues.Err())
		}
	}
	return "(" + x + ") && (" + y + ")", nil
}

func program(env *cel.Env, checked *cel.Ast) (cel.Program, error) {
	// Optimizing compiles the patterns that the rule has in it, once.
	return env.Program(checked, cel.CostLimit(maxCost), cel.CostTracking(costs{}), cel.EvalOptions(cel.OptOptimize))
}

// compileConditions makes one program of each part of the condition, so that an
// explanation can name those that failed, and an error in one cannot hide
// behind another. The parts are printed and compiled again: a part of a checked
// expression is none.
func (c *rule) compileConditions(env *cel.Env) error {
	parsed, issues := env.Parse(c.When)
	if issues != nil && issues.Err() != nil {
		return issues.Err()
	}
	parts := flatten(parsed.NativeRep().Expr(), operators.LogicalAnd)
	if len(parts) > maxConditions {
		return fmt.Errorf("%d conditions, more than %d", len(parts), maxConditions)
	}
	for _, e := range parts {
		text, err := cel.ExprToString(e, parsed.NativeRep().SourceInfo())
		if err != nil {
			return fmt.Errorf("printing a condition: %w", err)
		}
		checked, err := parse(env, text, cel.BoolType)
		if err != nil {
			return err
		}
		p, err := program(env, checked)
		if err != nil {
			return err
		}
		c.conditions = append(c.conditions, condition{text, p, checked.NativeRep().Expr(), loginClaims(checked.NativeRep())})
	}
	return nil
}

// flatten returns the operands of a chain of one operator, in order.
func flatten(e ast.Expr, operator string) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operator {
		return []ast.Expr{e}
	}
	var all []ast.Expr
	for _, arg := range e.AsCall().Args() {
		all = append(all, flatten(arg, operator)...)
	}
	return all
}

// errNoMatch says that the rule is not for this identity: try the next one.
var errNoMatch = errors.New("no match")

// decide returns what the rule decides, errNoMatch, or a refusal.
func (c *rule) decide(f *facts) (ca.Decision, error) {
	d := ca.Decision{Rule: c.Name, Profile: c.Profile, Authority: c.Authority}
	if claim, left := c.leftOut(f); left {
		return d, ca.Refuse(ca.KindDenied, ca.ReasonGroupsOverage, "rule %q reads the claim %q, which the provider left out of the token", c.Name, claim)
	}
	absent := false
	for _, cond := range c.conditions {
		met, err := cond.met(f)
		switch {
		case err != nil && isAbsent(err):
			absent = true // a later condition may still be in error
		case err != nil:
			return d, c.refuse(cond.text, err)
		case !met:
			return d, errNoMatch
		}
	}
	if absent {
		return d, errNoMatch
	}
	value, _, err := c.values[0].Eval(f)
	if err != nil {
		return d, c.refuse("san", err)
	}
	name, ok := value.(*opaque)
	if !ok {
		return d, c.refuse("san", fmt.Errorf("gave a %s", value.Type().TypeName()))
	}
	d.SAN = name.san
	d.Extensions, err = c.extend(f, value)
	return d, err
}

// extend makes the extensions; san is what the first of values gave.
func (c *rule) extend(f *facts, san ref.Val) ([]ca.Extension, error) {
	if len(c.extensions) == 0 {
		return nil, nil
	}
	all := make([]ca.Extension, 0, len(c.extensions))
	values := make([]ref.Val, len(c.values))
	values[0] = san
	for _, e := range c.extensions {
		if values[e.value] == nil {
			v, _, err := c.values[e.value].Eval(f)
			if err != nil {
				return nil, c.refuse(e.String(), err)
			}
			values[e.value] = v
		}
		made := ca.Extension{Number: e.number}
		switch v := values[e.value].(type) {
		case types.String:
			made.Value = string(v)
		case *opaque:
			made.Value = v.san.String()
		default:
			return nil, c.refuse(e.String(), fmt.Errorf("gave a %s; text() makes text of numbers", v.Type().TypeName()))
		}
		if err := checkExtension(made); err != nil {
			return nil, c.refuse(e.String(), &nameError{err})
		}
		if made.Value != "" {
			all = append(all, made)
		}
	}
	return all, nil
}

// met evaluates a condition.
func (c condition) met(f *facts) (bool, error) {
	value, _, err := c.program.Eval(f)
	if err != nil {
		return false, err
	}
	b, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("gave a %s, not a bool", value.Type().TypeName())
	}
	return bool(b), nil
}

func isAbsent(err error) bool {
	_, ok := errors.AsType[*absentError](err)
	return ok
}

// refuse turns the error of an expression into a refusal, or into errNoMatch
// when a claim is absent.
func (c *rule) refuse(where string, err error) error {
	if isAbsent(err) {
		return errNoMatch
	}
	reason := ca.ReasonPolicy
	if _, ok := errors.AsType[*nameError](err); ok {
		reason = ca.ReasonSANInvalid
	}
	if errors.Is(err, errGuest) {
		reason = ca.ReasonGuest
	}
	return ca.Refuse(ca.KindDenied, reason, "rule %q: %s: %w", c.Name, where, err)
}

// leftOut reports a claim that the rule reads and that the provider says it left
// out: OpenID Connect Core, Section 5.6.2: "_claim_names: JSON object whose
// member names are the Claim Names for the Aggregated and Distributed Claims".
// Entra ID does so with more than 200 groups, or sends hasgroups. Nobody follows
// the pointer: it is an address from a token.
func (c *rule) leftOut(f *facts) (string, bool) {
	names, ok := f.claims.members["_claim_names"]
	if ok {
		elsewhere, isObject := names.(map[string]any)
		for claim := range c.claims {
			if _, ok := elsewhere[claim]; ok || !isObject {
				return claim, true
			}
		}
	}
	if has, ok := f.claims.members["hasgroups"]; ok && has != false && c.claims["groups"] {
		return "groups", true
	}
	return "", false
}
