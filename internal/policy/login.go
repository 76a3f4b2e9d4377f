package policy

import (
	"encoding/json"
	"maps"
	"strconv"

	"cel.dev/cel-go/common/ast"

	"github.com/mayfly-ca/mayfly/ca"
)

// The claims that tell how and when a person has logged in. A person can change
// them by logging in again, and no other claim.
const (
	claimACR      = "acr"
	claimAMR      = "amr"
	claimAuthTime = "auth_time"
)

// loginClaims returns which of them a condition reads, or none if it also reads
// something else: another login would then not tell what it decides.
func loginClaims(checked *ast.AST) map[string]bool {
	l := linter{claims: map[string]bool{}, text: checked}
	l.walk(checked.Expr(), nil, false)
	for claim := range l.claims {
		if claim != claimACR && claim != claimAMR && claim != claimAuthTime {
			return nil
		}
	}
	others := false
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind && e.AsIdent() != "claims" && e.AsIdent() != "now" {
			_, variable := variables[e.AsIdent()]
			others = others || variable
		}
	}))
	if others {
		return nil
	}
	return l.claims
}

// logins are the facts of a request with another login, made when they are
// needed and once for each refusal.
type logins struct {
	facts       *facts
	fresh, none *facts
}

// withFresh is what the request would be if the person logged in now.
func (l *logins) withFresh() *facts {
	if l.fresh == nil {
		l.fresh = l.facts.withClaims(func(members map[string]any) {
			members[claimAuthTime] = json.Number(strconv.FormatInt(l.facts.now.Unix(), 10))
		})
	}
	return l.fresh
}

// without is what the request would be if the token did not tell how the person
// has logged in.
func (l *logins) without() *facts {
	if l.none == nil {
		l.none = l.facts.withClaims(func(members map[string]any) {
			delete(members, claimACR)
			delete(members, claimAMR)
		})
	}
	return l.none
}

// withClaims returns facts whose claims change has changed.
func (f *facts) withClaims(change func(members map[string]any)) *facts {
	other := *f
	members := maps.Clone(f.claims.members)
	change(members)
	other.claims = object{members: members}
	return &other
}

// wanted returns the rule that another login would satisfy, and what is wanted
// of it: the first rule whose other conditions all hold, and which would give a
// name that the issuer may give. Who gets this answer can do something about it;
// to everybody else a rule is no business of theirs. It costs no more than a
// second decision, and only requests with a verified token get here.
func (c *compiled) wanted(f *facts) (string, ca.Reason) {
	l := &logins{facts: f}
	for _, r := range c.rules {
		reason := r.wanted(l)
		if reason == "" {
			continue
		}
		value, _, err := r.values[0].Eval(f)
		if name, ok := value.(*opaque); err == nil && ok && c.mayName(name.san) == nil {
			return r.Name, reason
		}
	}
	return "", ""
}

// wanted returns what a rule that does not match wants of the login, or nothing
// if that is not what it lacks.
func (c *rule) wanted(l *logins) (reason ca.Reason) {
	for _, cond := range c.conditions {
		met, err := cond.met(l.facts)
		switch {
		case err == nil && met:
		case err != nil && !isAbsent(err):
			return ""
		case cond.login[claimAuthTime] && cond.holds(l.withFresh()):
			// Whoever logs in with more also logs in anew, so that wins.
			if reason == "" {
				reason = ca.ReasonAuthTooOld
			}
		case (cond.login[claimACR] || cond.login[claimAMR]) && !cond.holds(l.without()):
			// A condition that holds without them is one against people.
			reason = ca.ReasonMFARequired
		default:
			return ""
		}
	}
	return reason
}

func (c condition) holds(f *facts) bool {
	met, err := c.met(f)
	return met && err == nil
}
