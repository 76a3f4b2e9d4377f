package policy

import (
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// costs says what our functions cost, in the measure of CEL's own: one for each
// member of a list, a tenth for each byte of a text. Without it a call costs
// one, and a loop over list() would be paid like a loop over nothing.
//
// So would be some of CEL's operators: it knows what "in", "==" and "+" cost for
// each type of operand, and a claim's type is known only when the rule runs.
type costs struct{}

// CallCost implements cost.ActualCostEstimator; nil means CEL's own estimate.
func (costs) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	size := 0
	switch function {
	case "list":
		if l, ok := result.(traits.Sizer); ok {
			n, _ := l.Size().(types.Int)
			size = int(n)
		}
	case "email", "uri", "path", "spiffe", "username", "workflow", "after", "dns1123", "ts", "recent":
		for _, arg := range args {
			if s, ok := arg.(types.String); ok {
				size += len(s) / 10
			}
		}
	case operators.In:
		size = leaves(args[1])
	case operators.Equals, operators.NotEquals:
		size = min(leaves(args[0]), leaves(args[1]))
	case operators.Add:
		s, ok := result.(types.String)
		if !ok {
			return nil // loops build their lists with it, at a cost of one
		}
		size = len(s) / 10
	default:
		return nil
	}
	return new(uint64(1 + size))
}

// leaves counts what a comparison with a value may have to look at: members of
// lists, however deep, and tens of bytes of a text. Objects compare with nothing.
func leaves(v ref.Val) int {
	if s, ok := v.(types.String); ok { // most are; Value would make a copy
		return len(s) / 10
	}
	return decodedLeaves(v.Value())
}

func decodedLeaves(v any) int {
	switch v := v.(type) {
	case []any:
		n := len(v)
		for _, member := range v {
			if list, ok := member.([]any); ok {
				n += decodedLeaves(list)
			}
		}
		return n
	case []string:
		return len(v)
	case []ref.Val:
		n := len(v)
		for _, member := range v {
			if _, ok := member.(traits.Lister); ok {
				n += leaves(member)
			}
		}
		return n
	case string:
		return len(v) / 10
	}
	return 0
}
