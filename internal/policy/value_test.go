package policy

import (
	"encoding/json"
	"testing"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// FuzzListContains: a list of the token has in it what CEL's own list of the same
// members has in it.
func FuzzListContains(f *testing.F) {
	f.Add([]byte(`["/staff","/code-signers"]`), "/code-signers", int64(1))
	f.Add([]byte(`[1,1.5,true,null,"",["1"],{"a":"1"},99999999999999999999]`), "1", int64(1))
	f.Add([]byte(`["a",{}]`), "b", int64(0))
	f.Fuzz(func(t *testing.T, text []byte, s string, n int64) {
		var members []any
		if json.Unmarshal(text, &members) != nil {
			return
		}
		for i, m := range members {
			if f, ok := m.(float64); ok {
				members[i] = json.Number(types.Double(f).ConvertToType(types.StringType).(types.String))
			}
		}
		for _, v := range []ref.Val{types.String(s), types.Int(n), types.True, types.NullValue, newList(members, "x")} {
			got := newList(members, "x").Contains(v)
			if want := types.NewDynamicList(adapter{"x"}, members).Contains(v); got != want {
				t.Fatalf("%v in %s: got %v, want %v", v, text, got, want)
			}
		}
	})
}
