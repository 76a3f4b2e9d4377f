package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// alwaysPresent are the claims without which no token gets as far as a rule.
var alwaysPresent = []string{"iss", "sub", "aud", "exp", "iat"}

// displayOnly are claims that people may choose for themselves at the usual
// providers. A name made of one is a name that anybody can take.
var displayOnly = []string{"preferred_username", "unique_name", "name", "nickname", "given_name", "family_name"}

// lint refuses rules that are correct CEL and still say something that nobody
// can have meant.
func (c *rule) lint(parts []part, trusted []string) error {
	for _, p := range parts {
		l := linter{claims: map[string]bool{}, text: p.ast.NativeRep()}
		l.walk(p.ast.NativeRep().Expr(), nil, false)
		if l.problem != "" {
			return fmt.Errorf("%s: %s", p.where, l.problem)
		}
		for claim := range l.claims {
			c.claims[claim] = true
			if p.where == "san" && slices.Contains(displayOnly, claim) && !slices.Contains(trusted, claim) {
				return fmt.Errorf("san: people may choose their own claims.%s; name it in trusted_claims if nobody can here", claim)
			}
		}
	}
	when := parts[0].ast.NativeRep().Expr()
	if c.claims["email"] && !slices.Contains(trusted, "email") && !provesEmail(when) {
		return fmt.Errorf("the rule reads claims.email, which nobody may have verified: " +
			"add the condition claims.email_verified == true, or yes(claims.xms_edov) for Entra ID, " +
			"or name email in trusted_claims if the provider vouches for every address")
	}
	return nil
}

// provesEmail reports whether a condition holds only for verified addresses: one
// part of a conjunction suffices, of a disjunction each must do.
func provesEmail(e ast.Expr) bool {
	if parts := flatten(e, operators.LogicalAnd); len(parts) > 1 {
		return slices.ContainsFunc(parts, provesEmail)
	}
	if parts := flatten(e, operators.LogicalOr); len(parts) > 1 {
		return !slices.ContainsFunc(parts, func(p ast.Expr) bool { return !provesEmail(p) })
	}
	if e.Kind() == ast.CallKind {
		call := e.AsCall()
		switch args := call.Args(); {
		case call.FunctionName() == "yes" && len(args) == 1:
			e = args[0]
		case call.FunctionName() == operators.Equals && isTrue(args[1]):
			e = args[0]
		case call.FunctionName() == operators.Equals && isTrue(args[0]):
			e = args[1]
		}
	}
	if e.Kind() == ast.IdentKind {
		return e.AsIdent() == "token.email_verified"
	}
	p, ok := pathOf(e)
	return ok && !p.test && len(p.names) == 2 && p.names[0] == "claims" && (p.names[1] == "email_verified" || p.names[1] == "xms_edov")
}

// isTrue accepts the strings that providers write, too.
func isTrue(e ast.Expr) bool {
	if e.Kind() != ast.LiteralKind {
		return false
	}
	v := e.AsLiteral()
	return v == types.True || v == types.String("true")
}

// claimPath is a chain of selections from a variable: claims.a.b["c"].
type claimPath struct {
	names []string
	// sure is how many names are read without "?": what lies behind one is
	// optional.
	sure int
	// test means that the last name is inside has().
	test bool
	// keys are the indexes that are no literals.
	keys []ast.Expr
}

func (p claimPath) String() string { return strings.Join(p.names, ".") }

// key identifies the first n names, in which dots may stand.
func (p claimPath) key(n int) string { return strings.Join(p.names[:n], "\x00") }

// pathOf reads a chain of selections; ok is false for everything else.
func pathOf(e ast.Expr) (p claimPath, ok bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return claimPath{names: []string{e.AsIdent()}, sure: 1}, true
	case ast.SelectKind:
		s := e.AsSelect()
		if p, ok = pathOf(s.Operand()); !ok {
			return p, false
		}
		p = p.with(s.FieldName(), false)
		p.test = s.IsTestOnly()
		return p, true
	case ast.CallKind:
		call := e.AsCall()
		optional := call.FunctionName() == operators.OptSelect || call.FunctionName() == operators.OptIndex
		if !optional && call.FunctionName() != operators.Index {
			return p, false
		}
		if p, ok = pathOf(call.Args()[0]); !ok {
			return p, false
		}
		if key := call.Args()[1]; key.Kind() != ast.LiteralKind {
			p = p.with("[]", optional)
			p.keys = append(p.keys, key)
		} else {
			p = p.with(fmt.Sprint(key.AsLiteral().Value()), optional)
		}
		return p, true
	}
	return p, false
}

func (p claimPath) with(name string, optional bool) claimPath {
	if p.sure == len(p.names) && !optional {
		p.sure++
	}
	p.names = append(slices.Clone(p.names), name)
	return p
}

// linter walks one expression.
type linter struct {
	text    *ast.AST
	claims  map[string]bool
	problem string
}

func (l *linter) complain(format string, args ...any) {
	if l.problem == "" {
		l.problem = fmt.Sprintf(format, args...)
	}
}

// walk visits an expression. known are the paths that are present where it is
// evaluated. free means that its being in error is not simply the condition's
// being in error: below "||" an error can be overruled, below "!" and "!=" the
// author thinks of the absent claim as unequal. There every claim that may be
// absent needs a has().
func (l *linter) walk(e ast.Expr, known []string, free bool) {
	if p, ok := pathOf(e); ok {
		l.read(p, known, free)
		return
	}
	switch e.Kind() {
	case ast.SelectKind:
		if free {
			l.complain("%s of a computed value may be absent, and no has() can tell", e.AsSelect().FieldName())
		}
		l.walk(e.AsSelect().Operand(), known, free)
	case ast.CallKind:
		l.call(e, known, free)
	case ast.ListKind:
		for _, el := range e.AsList().Elements() {
			l.walk(el, known, free)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			l.walk(entry.AsMapEntry().Key(), known, free)
			l.walk(entry.AsMapEntry().Value(), known, free)
		}
	case ast.StructKind:
		l.complain("messages such as %s{} have no use in a rule", e.AsStruct().TypeName())
	case ast.ComprehensionKind:
		// The loop of exists() is a "||", and what the others make of an error
		// is no clearer.
		c := e.AsComprehension()
		l.walk(c.IterRange(), known, free)
		l.walk(c.AccuInit(), known, free)
		l.walk(c.LoopStep(), known, true)
		l.walk(c.Result(), known, true)
	}
}

func (l *linter) call(e ast.Expr, known []string, free bool) {
	call := e.AsCall()
	args := call.Args()
	switch name := call.FunctionName(); name {
	case operators.LogicalAnd:
		parts := flatten(e, name)
		for _, part := range parts {
			known = append(slices.Clip(known), tested(part, false)...)
		}
		for _, part := range parts {
			l.walk(part, known, free)
		}
		return
	case operators.LogicalOr:
		parts := flatten(e, name)
		for _, part := range parts {
			known = append(slices.Clip(known), tested(part, true)...)
		}
		for _, part := range parts {
			l.walk(part, known, true)
		}
		return
	case operators.Conditional:
		l.walk(args[0], known, true)
		l.walk(args[1], append(slices.Clip(known), tested(args[0], false)...), true)
		l.walk(args[2], append(slices.Clip(known), tested(args[0], true)...), true)
		return
	case operators.LogicalNot, operators.NotEquals:
		free = true
	case "uri", "workflow":
		l.base(name, args)
	case "matches":
		if pattern := args[len(args)-1]; pattern.Kind() != ast.LiteralKind {
			l.complain("the pattern of matches() must be written in the rule")
		}
	case "in_network":
		text, _ := literal(args[1])
		if p, err := netip.ParsePrefix(text); err != nil || p != p.Masked() {
			l.complain("in_network() needs a network written in the rule, such as \"10.0.0.0/8\"")
		}
	}
	if call.IsMemberFunction() {
		l.walk(call.Target(), known, free)
	}
	for _, arg := range args {
		l.walk(arg, known, free)
	}
}

// tested returns the paths that are present when a condition holds or, with
// negated, when it does not.
func tested(e ast.Expr, negated bool) []string {
	operator := operators.LogicalAnd
	if negated {
		operator = operators.LogicalOr
	}
	var all []string
	for _, part := range flatten(e, operator) {
		if part.Kind() == ast.CallKind && part.AsCall().FunctionName() == operators.LogicalNot {
			inner := part.AsCall().Args()[0]
			if p, ok := pathOf(inner); negated && ok && p.test {
				all = append(all, p.key(len(p.names)))
			}
			continue
		}
		if p, ok := pathOf(part); !negated && ok && p.test {
			all = append(all, p.key(len(p.names)))
		}
	}
	return all
}

// read judges the reading of a path.
func (l *linter) read(p claimPath, known []string, free bool) {
	for _, key := range p.keys {
		l.walk(key, known, free)
	}
	if p.names[0] == "claims" {
		if len(p.names) == 1 || p.names[1] == "[]" {
			l.complain("name the claim that is meant: claims.groups, or claims[\"https://corp.example/role\"]")
			return
		}
		// has() tells nothing about the value, and of an address nothing that
		// needs proof.
		if !p.test || len(p.names) > 2 || p.names[1] != "email" {
			l.claims[p.names[1]] = true
		}
	}
	sure := p.sure
	if p.test {
		sure--
	}
	for n := 2; n <= sure && free; n++ {
		prefix := p.key(n)
		if n == 2 && p.names[0] == "claims" && slices.Contains(alwaysPresent, p.names[1]) {
			continue
		}
		present := slices.ContainsFunc(known, func(k string) bool { return k == prefix || strings.HasPrefix(k, prefix+"\x00") })
		if !present {
			name := strings.Join(p.names[:n], ".")
			l.complain("%s may be absent: below ||, !, != and ?: say what then, as in has(%s) && ..., or write it with a question mark",
				name, name)
		}
	}
}

// base demands that the beginning of a name is what the administrator wrote.
func (l *linter) base(name string, args []ast.Expr) {
	if len(args) == 1 && name == "uri" {
		return // a whole URI, which the prefixes of the issuer bound
	}
	text, ok := literal(args[0])
	if !ok {
		l.complain("the first argument of %s() must be written in the rule, such as \"https://ci.corp.example\" or issuer.url", name)
	}
	if rest, https := strings.CutPrefix(text, "https://"); text != "" && (!https || rest == "" || strings.HasPrefix(rest, "/")) {
		l.complain("the first argument of %s() must begin with https:// and a host", name)
	}
	for _, arg := range args[1:] {
		t := l.text.GetType(arg.ID())
		if !t.IsExactType(types.StringType) && !t.IsExactType(types.DynType) && !t.IsExactType(pathType) {
			l.complain("%s() takes text and path(), not a %s; text() makes text of numbers", name, t)
		}
	}
}

// literal returns the text that the administrator wrote, and ok for what is made
// of such texts and the issuer's URL, whose text is then empty.
func literal(e ast.Expr) (string, bool) {
	switch e.Kind() {
	case ast.LiteralKind:
		s, ok := e.AsLiteral().(types.String)
		return string(s), ok
	case ast.IdentKind:
		return "", e.AsIdent() == "issuer.url" || e.AsIdent() == "issuer.origin"
	case ast.CallKind:
		if e.AsCall().FunctionName() != operators.Add {
			return "", false
		}
		a, okA := literal(e.AsCall().Args()[0])
		b, okB := literal(e.AsCall().Args()[1])
		if a == "" || b == "" {
			return a, okA && okB
		}
		return a + b, okA && okB
	}
	return "", false
}
