package report

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// The markers between which a document has the generated tables.
const (
	Begin = "<!-- compare:begin -->"
	End   = "<!-- compare:end -->"
)

// Replace puts the text between the markers, of which there must be one pair.
func Replace(document, text string) (string, error) {
	if strings.Count(document, Begin) != 1 || strings.Count(document, End) != 1 {
		return "", fmt.Errorf("the document needs one %s and one %s", Begin, End)
	}
	before, rest, _ := strings.Cut(document, Begin)
	_, after, found := strings.Cut(rest, End)
	if !found {
		return "", errors.New("the markers of the document are the wrong way round")
	}
	return before + Begin + "\n\n" + strings.TrimSpace(text) + "\n\n" + End + after, nil
}

// CheckDocument says what WriteInto would not like about a file.
func CheckDocument(path string) error {
	_, err := replaceIn(path, "")
	return err
}

// WriteInto replaces what a file has between the markers.
func WriteInto(path, text string) error {
	replaced, err := replaceIn(path, text)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(replaced), 0o644); err != nil { //nolint:gosec // a document for everybody
		return fmt.Errorf("writing the document: %w", err)
	}
	return nil
}

func replaceIn(path, text string) (string, error) {
	document, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the document: %w", err)
	}
	replaced, err := Replace(string(document), text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return replaced, nil
}
