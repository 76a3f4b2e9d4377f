package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"

	"github.com/mayfly-ca/mayfly/ca"
)

// Explanation says how a request is decided, and why. It holds values of claims,
// which are for administrators and for the person whose token it is; it never
// holds a token.
type Explanation struct {
	// Allowed says that policy lets the request pass. Whether the certificate is
	// then issued is up to key, chain and log.
	Allowed bool `json:"allowed"`
	// Issuer is the issuer's name in the configuration.
	Issuer string `json:"issuer"`
	// Rule is the rule that matched or refused; empty when none matched.
	Rule string `json:"rule,omitempty"`
	// SANKind and SAN are the name in the certificate. They are there for a
	// name that the issuer may not give, too.
	SANKind ca.SANKind `json:"san_kind,omitempty"`
	SAN     string     `json:"san,omitempty"`
	// Extensions are the build facts, beside issuer and subject.
	Extensions []ca.Extension `json:"extensions,omitempty"`
	// Profile and Authority are the ones decided; empty means "default".
	Profile   string `json:"profile,omitempty"`
	Authority string `json:"authority,omitempty"`
	// Reason and Why say why there is no certificate.
	Reason ca.Reason `json:"reason,omitempty"`
	Why    string    `json:"why,omitempty"`
	// Rules are the rules in order, up to the one that decided.
	Rules []RuleExplanation `json:"rules,omitempty"`
}

// RuleExplanation says how a rule was evaluated.
type RuleExplanation struct {
	Name    string `json:"name"`
	Matched bool   `json:"matched"`
	// Failed are the conditions that do not hold, all of them and not only the
	// first, so that a person need not come back once for each.
	Failed []FailedCondition `json:"failed,omitempty"`
}

// FailedCondition is a part of a rule that does not hold.
type FailedCondition struct {
	// Condition is the part as the rule has it.
	Condition string `json:"condition"`
	// Why says in words what the token has instead.
	Why string `json:"why"`
}

// Explain decides a request and says why. It does what [Policy.Decide] does.
func (p *Policy) Explain(_ context.Context, r ca.Request) Explanation {
	return p.explain(factsOf(&r))
}

func (p *Policy) explain(f *facts) Explanation {
	e := Explanation{Issuer: f.id.IssuerName}
	i, ok := p.issuers[f.id.IssuerName]
	if !ok {
		e.Reason, e.Why = ca.ReasonPolicy, "the policy has no issuer of that name"
		return e
	}
	d, err := i.decide(f)
	e.Rule, e.SANKind, e.SAN = d.Rule, d.SAN.Kind(), d.SAN.String()
	e.Extensions, e.Profile, e.Authority = d.Extensions, d.Profile, d.Authority
	if err == nil {
		err = i.mayName(d.SAN)
	}
	e.Allowed = err == nil
	if err != nil {
		refusal := ca.AsRefusal(err)
		e.Reason, e.Why = refusal.Reason, refusal.Err.Error()
	}
	for _, r := range i.rules {
		_, err := r.decide(f)
		x := RuleExplanation{Name: r.Name, Matched: err == nil, Failed: r.failed(f)}
		if errors.Is(err, errNoMatch) && len(x.Failed) == 0 {
			x.Failed = append(x.Failed, r.incomplete(f))
		}
		e.Rules = append(e.Rules, x)
		if !errors.Is(err, errNoMatch) {
			break
		}
	}
	return e
}

// failed returns the conditions that do not hold.
func (c *rule) failed(f *facts) (all []FailedCondition) {
	for _, cond := range c.conditions {
		met, err := cond.met(f)
		if !met || err != nil {
			all = append(all, FailedCondition{cond.text, cond.words(f, err)})
		}
	}
	return all
}

// incomplete says what the name or an extension lacks although every condition
// holds.
func (c *rule) incomplete(f *facts) FailedCondition {
	if _, _, err := c.values[0].Eval(f); err != nil {
		return FailedCondition{"san: " + c.SAN, absentWords(err)}
	}
	for _, e := range c.extensions {
		if _, _, err := c.values[e.value].Eval(f); err != nil {
			at := slices.IndexFunc(c.Extensions, func(x RuleExtension) bool { return x.Number == e.number })
			return FailedCondition{e.String() + ": " + c.Extensions[at].Value, absentWords(err)}
		}
	}
	return FailedCondition{"", "unknown"}
}

func absentWords(err error) string {
	if absent, ok := errors.AsType[*absentError](err); ok {
		return absent.Error()
	}
	return err.Error()
}

// words says what a condition that does not hold found.
func (c condition) words(f *facts, err error) string {
	if err != nil {
		return absentWords(err)
	}
	found := c.found(f)
	if want, ok := c.wanted(); ok && len(found) == 1 {
		return found[0] + ", " + want
	}
	if len(found) == 0 {
		return "this never holds"
	}
	return strings.Join(found, ", ")
}

// wanted puts the commonest forms of conditions into words.
func (c condition) wanted() (string, bool) {
	if c.node.Kind() != ast.CallKind {
		return "", false
	}
	call := c.node.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.Equals:
		for _, side := range args {
			if side.Kind() == ast.LiteralKind {
				return "and must be " + show(side.AsLiteral().Value()), true
			}
		}
	case operators.In:
		if args[0].Kind() == ast.LiteralKind {
			return "and must contain " + show(args[0].AsLiteral().Value()), true
		}
		return "which is not in the list of the rule", true
	case "recent":
		return "which is too long ago, or in the future", true
	}
	return "", false
}

// found lists what the condition reads and what is there.
func (c condition) found(f *facts) (all []string) {
	add := func(text string) {
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	var visit func(e ast.Expr)
	visit = func(e ast.Expr) {
		p, ok := pathOf(e)
		switch {
		case ok && p.names[0] == "claims" && len(p.names) > 1:
			v, there := lookup(f.claims.members, p.names[1:])
			switch {
			case !there:
				add("the token has no claim " + strings.Join(p.names[1:], "."))
			default:
				add(p.String() + " is " + show(v))
			}
		case ok:
			v, known := variables[p.names[0]]
			if known && p.names[0] != "claims" && p.names[0] != "now" {
				add(p.names[0] + " is " + show(v.value(f).Value()))
			}
		case e.Kind() == ast.CallKind:
			if e.AsCall().IsMemberFunction() {
				visit(e.AsCall().Target())
			}
			for _, arg := range e.AsCall().Args() {
				visit(arg)
			}
		case e.Kind() == ast.ListKind:
			for _, el := range e.AsList().Elements() {
				visit(el)
			}
		case e.Kind() == ast.ComprehensionKind:
			visit(e.AsComprehension().IterRange())
			visit(e.AsComprehension().LoopStep())
		}
	}
	visit(c.node)
	return all
}

func lookup(members map[string]any, path []string) (v any, ok bool) {
	v = members
	for _, name := range path {
		o, isObject := v.(map[string]any)
		if !isObject {
			return nil, false
		}
		if v, ok = o[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// maxShown bounds a value in an explanation: a token may carry anything.
const maxShown = 200

// show prints a value as JSON, which also escapes what a terminal would obey.
func show(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("a %T", v)
	}
	s := escapeInvisible(string(text))
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}

// escapeInvisible writes characters that checkText refuses as JSON escapes;
// json.Marshal leaves the bidirectional ones as they are.
func escapeInvisible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if checkText(string(r)) != nil {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// String tells the explanation to a person.
func (e Explanation) String() string {
	var b strings.Builder
	if e.Allowed {
		fmt.Fprintf(&b, "allowed by rule %q of issuer %q\n", e.Rule, e.Issuer)
	} else {
		fmt.Fprintf(&b, "refused: %s: %s\n", e.Reason, escapeInvisible(e.Why))
	}
	if e.SAN != "" {
		fmt.Fprintf(&b, "  name: %s:%s\n", e.SANKind, e.SAN)
	}
	for _, x := range e.Extensions {
		fmt.Fprintf(&b, "  1.3.6.1.4.1.57264.1.%d: %s\n", x.Number, x.Value)
	}
	if e.Profile != "" {
		fmt.Fprintf(&b, "  profile: %s\n", e.Profile)
	}
	if e.Authority != "" {
		fmt.Fprintf(&b, "  authority: %s\n", e.Authority)
	}
	for _, r := range e.Rules {
		outcome := "does not match"
		if r.Matched {
			outcome = "matches"
		} else if r.Name == e.Rule {
			outcome = "refuses"
		}
		fmt.Fprintf(&b, "rule %q %s\n", r.Name, outcome)
		for _, c := range r.Failed {
			fmt.Fprintf(&b, "  not met: %s\n    %s\n", c.Condition, escapeInvisible(c.Why))
		}
	}
	return b.String()
}
