package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// absentError says that a rule read a claim which the token does not have. It
// is the one error that means "no match" and not "refuse".
type absentError struct{ claim string }

func (e *absentError) Error() string { return fmt.Sprintf("the token has no claim %q", e.claim) }

// claimError says that a claim has a form that no rule can work with.
type claimError struct{ why string }

func (e *claimError) Error() string { return e.why }

// objectType is the type of the claims and of every object inside.
var objectType = types.NewOpaqueType("mayfly.object")

// object is a JSON object of a token as rules see it. It is deliberately no CEL
// map: a map reports a missing key with an error that has no type of its own,
// and whether a claim is absent decides between the next rule and a refusal.
type object struct {
	members map[string]any
	// path is where the object stands in the token, for messages.
	path string
}

// Get implements traits.Indexer.
func (o *object) Get(index ref.Val) ref.Val {
	key, ok := index.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(index)
	}
	v, ok := o.members[string(key)]
	if !ok {
		return types.WrapErr(&absentError{o.member(string(key))})
	}
	if text, ok := v.(string); ok {
		return types.String(text) // no path is made for it
	}
	return toValue(v, o.member(string(key)))
}

// IsSet implements traits.FieldTester, for has() and optional selection.
func (o *object) IsSet(field ref.Val) ref.Val {
	key, ok := field.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(field)
	}
	_, found := o.members[string(key)]
	return types.Bool(found)
}

func (o *object) member(key string) string {
	if o.path == "" {
		return key
	}
	return o.path + "." + key
}

// ConvertToNative implements ref.Val.
func (o *object) ConvertToNative(reflect.Type) (any, error) {
	return nil, errors.New("an object of the token has no native form")
}

// ConvertToType implements ref.Val.
func (o *object) ConvertToType(ref.Type) ref.Val {
	return types.WrapErr(&claimError{fmt.Sprintf("the claim %q is an object and cannot be converted", o.path)})
}

// Equal implements ref.Val. Objects compare with nothing: a rule that compares
// one has mistaken its members for it.
func (o *object) Equal(ref.Val) ref.Val {
	return types.WrapErr(&claimError{fmt.Sprintf("the claim %q is an object and cannot be compared", o.path)})
}

// Type implements ref.Val.
func (o *object) Type() ref.Type { return objectType }

// Value implements ref.Val.
func (o *object) Value() any { return o.members }

// adapter turns the members of a list into CEL values.
type adapter struct{ path string }

// NativeToValue implements types.Adapter.
func (a adapter) NativeToValue(v any) ref.Val {
	if text, ok := v.(string); ok {
		return types.String(text) // no path is made for it
	}
	return toValue(v, a.path+"[]")
}

// list is a JSON array of a token. It finds a string in itself, such as a group
// among hundreds, without making a CEL value of each member.
//
// It is always a pointer: CEL looks values up among the keys of a map of Go, and
// that panics for a struct with a slice in it.
type list struct {
	traits.Lister
	members []any
}

func newList(members []any, path string) *list {
	return &list{types.NewDynamicList(adapter{path}, members), members}
}

// IsZeroValue implements traits.Zeroer, for optional.ofNonZeroValue.
func (l *list) IsZeroValue() bool { return len(l.members) == 0 }

// Fold implements traits.Foldable, for the macros.
func (l *list) Fold(f traits.Folder) { types.ToFoldableList(l.Lister).Fold(f) }

// Contains implements traits.Container. A string equals a string and no other
// value of CEL.
func (l *list) Contains(v ref.Val) ref.Val {
	s, ok := v.(types.String)
	if !ok {
		return l.Lister.Contains(v)
	}
	for _, member := range l.members {
		if text, ok := member.(string); ok && text == string(s) {
			return types.True
		}
	}
	return types.False
}

// toValue turns a decoded JSON value into a CEL value. Integers stay exact: a
// number that neither type of CEL holds is an error when a rule reads it, and
// never a rounded one.
func toValue(v any, path string) ref.Val {
	switch v := v.(type) {
	case nil:
		return types.NullValue
	case string:
		return types.String(v)
	case bool:
		return types.Bool(v)
	case json.Number:
		return toNumber(v.String(), path)
	case map[string]any:
		return &object{v, path}
	case []any:
		return newList(v, path)
	}
	if val, ok := v.(ref.Val); ok {
		return val
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

func toNumber(text, path string) ref.Val {
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return types.Int(i)
	}
	if strings.ContainsAny(text, ".eE") {
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return types.Double(f)
		}
	}
	return types.WrapErr(&claimError{fmt.Sprintf("the claim %q is a number that is too large", path)})
}
