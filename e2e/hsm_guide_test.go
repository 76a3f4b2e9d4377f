package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestHSMGuideIsFourCommandsAndOneFile counts what docs/hsm.md has a reader type
// for a first installation; run.sh pastes the same blocks.
func TestHSMGuideIsFourCommandsAndOneFile(t *testing.T) {
	script := pastedBlocks(string(readFile(t, "../docs/hsm.md")))
	commands := captures(script, `(?m)(?:^|[;&|(]\s*|sudo )mayfly ((?:hsm |log )?[a-z]+)`)
	if want := []string{"hsm keygen", "log init", "hsm doctor", "serve"}; !slices.Equal(commands, want) {
		t.Errorf("the guide has the mayfly commands %q, want %q", commands, want)
	}
	files := captures(script, `(?m)^cat > (\S+) <<`)
	if want := []string{"mayfly.yaml"}; !slices.Equal(files, want) {
		t.Errorf("the guide has its reader write the files %q, want %q", files, want)
	}
}

// pastedBlocks are the blocks that .ci/guide pastes.
func pastedBlocks(text string) string {
	return strings.Join(captures(text, "(?ms)^```sh\n(.*?)^```$"), "")
}

// captures returns the first group of every match.
func captures(text, pattern string) (all []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}
