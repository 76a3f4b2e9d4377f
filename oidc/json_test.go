package oidc

import (
	"runtime"
	"strings"
	"testing"
)

// What reading a text makes is in proportion to the text, whatever is in it:
// strangers send it for nothing. One that counted its commas once for each array
// around them would make hundreds of times its own length.
func TestReadingMakesNoMoreThanTheTextIsWorth(t *testing.T) {
	const depth = 14 // in the two of payload and claim, as deep as may be
	commas := strings.Repeat("[0,", depth) + `"` + strings.Repeat(",", maxArrayRoom) + `"` + strings.Repeat("]", depth)
	for what, element := range map[string]string{
		"numbers": "0", "arrays": "[0]", "commas": commas, "brackets": `"` + strings.Repeat("],", 100) + `"`,
	} {
		text := `{"a":[` + strings.Repeat(element+",", 12_000/(len(element)+1)) + `0]}`
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decodeObject(text, payloadLimits)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if made := (after.TotalAlloc - before.TotalAlloc) / uint64(len(text)); made > 80 {
			t.Errorf("%s: %d bytes for each of %.40q..., want at most 80", what, made, text)
		}
	}
}
