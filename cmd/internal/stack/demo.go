package stack

import (
	"fmt"
	"os"
	"path/filepath"
)

// demoMarker is a file in a state directory that mayfly-dev made.
const demoMarker = "DEMONSTRATION"

// MarkDemo makes a state directory, or marks an empty one, as demonstration.
// mayfly serve refuses such a directory for ever, so one that holds anything
// else is never marked: it may be the state of a real service.
func MarkDemo(state string) error {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fmt.Errorf("making the demonstration's state directory: %w", err)
	}
	if isDemoState(state) {
		return nil
	}
	entries, err := os.ReadDir(state)
	if err != nil {
		return fmt.Errorf("looking into the demonstration's state directory: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is neither empty nor made by mayfly-dev: it holds %s; name another directory", state, entries[0].Name())
	}
	text := "Made by mayfly-dev. Keys and logs in this directory are for demonstration; mayfly serve refuses it.\n"
	if err := os.WriteFile(filepath.Join(state, demoMarker), []byte(text), 0o600); err != nil {
		return fmt.Errorf("marking the demonstration's state directory: %w", err)
	}
	return nil
}

func isDemoState(state string) bool { return exists(filepath.Join(state, demoMarker)) }

func demoStateAdvice(state string, demo bool) string {
	if demo {
		return fmt.Sprintf("%s is not marked as demonstration; mayfly-dev touches no other state", state)
	}
	return fmt.Sprintf("%s was made by mayfly-dev for demonstration; use a directory of its own for the service", state)
}
