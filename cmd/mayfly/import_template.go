package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/config"
)

var extensionNames = config.ExtensionNames()

// extensionName finds our name for Fulcio's key of an extension template.
func extensionName(key string) (string, bool) {
	for _, name := range extensionNames {
		if canonicalKey(name) == canonicalKey(key) {
			return name, true
		}
	}
	return "", false
}

// piece is a part of a template: fixed text, a claim, or a choice between two
// texts by the value of a claim.
type piece struct {
	text     string
	claim    string
	optional bool // the claim has an empty default

	// A choice is text if the claim equals, and otherwise other.
	choice        bool
	equals, other string
}

var (
	fieldAction = regexp.MustCompile(`^\.([A-Za-z_][A-Za-z0-9_]*)$`)
	indexAction = regexp.MustCompile(`^\(?\s*index \. ("(?:[^"\\]|\\.)*")\s*\)?$`)
	ifAction    = regexp.MustCompile(`^if eq (\.[A-Za-z_][A-Za-z0-9_]*|\(\s*index \. "(?:[^"\\]|\\.)*"\s*\)) ("(?:[^"\\]|\\.)*")$`)
	actions     = regexp.MustCompile(`\{\{(.*?)\}\}`)
)

// parseTemplate takes a template of Fulcio apart, as far as it consists of texts,
// claims and plain choices. A text without braces is the name of a claim. The
// defaults become texts here: in Fulcio a token may replace them by a claim of the
// same name, which lets a token change what the administrator wrote.
func parseTemplate(template string, defaults map[string]string) ([]piece, error) {
	if !strings.Contains(template, "{{") {
		return []piece{claimOrDefault(template, defaults)}, nil
	}
	var pieces []piece
	var choice *piece // that is open
	otherwise := false
	add := func(text string) {
		switch {
		case text == "":
		case choice == nil:
			pieces = append(pieces, piece{text: text})
		case otherwise:
			choice.other += text
		default:
			choice.text += text
		}
	}
	at := 0
	for _, m := range actions.FindAllStringSubmatchIndex(template, -1) {
		add(template[at:m[0]])
		at = m[1]
		action := strings.TrimSpace(template[m[2]:m[3]])
		condition := ifAction.FindStringSubmatch(action)
		claim, isClaim := actionClaim(action)
		switch {
		case choice == nil && condition != nil:
			claim, _ := actionClaim(condition[1])
			equals, err := strconv.Unquote(condition[2])
			if _, fixed := defaults[claim]; err != nil || fixed {
				return nil, fmt.Errorf("it compares %s, which has a default", claim)
			}
			choice, otherwise = &piece{choice: true, claim: claim, equals: equals}, false
		case choice != nil && action == "else" && !otherwise:
			otherwise = true
		case choice != nil && action == "end":
			pieces, choice = append(pieces, *choice), nil
		case choice == nil && isClaim:
			pieces = append(pieces, claimOrDefault(claim, defaults))
		default:
			return nil, fmt.Errorf("{{%s}} is more than a claim or a choice between two texts", clipped(action))
		}
	}
	add(template[at:])
	if choice != nil || strings.Contains(template[at:], "{{") {
		return nil, fmt.Errorf("%q has no end", clipped(template))
	}
	return merge(pieces), nil
}

func actionClaim(action string) (string, bool) {
	if m := fieldAction.FindStringSubmatch(action); m != nil {
		return m[1], true
	}
	if m := indexAction.FindStringSubmatch(action); m != nil {
		name, err := strconv.Unquote(m[1])
		return name, err == nil
	}
	return "", false
}

func claimOrDefault(claim string, defaults map[string]string) piece {
	if text, ok := defaults[claim]; ok && text != "" {
		return piece{text: text}
	} else if ok {
		return piece{claim: claim, optional: true}
	}
	return piece{claim: claim}
}

// merge joins neighbouring texts.
func merge(pieces []piece) []piece {
	var merged []piece
	for _, p := range pieces {
		last := len(merged) - 1
		if last >= 0 && p.claim == "" && merged[last].claim == "" {
			merged[last].text += p.text
			continue
		}
		merged = append(merged, p)
	}
	return merged
}

// selection is the CEL expression for a claim.
func selection(claim string, optional bool) string {
	mark := ""
	if optional {
		mark = "?"
	}
	if fieldAction.MatchString("." + claim) {
		return "claims." + mark + claim
	}
	return "claims[" + mark + strconv.Quote(claim) + "]"
}

// presence is the CEL expression that a claim is there.
func presence(claim string) string {
	if fieldAction.MatchString("." + claim) {
		return "has(claims." + claim + ")"
	}
	return "claims[?" + strconv.Quote(claim) + "].hasValue()"
}

// expression is the CEL expression for the text that the pieces make: numbers and
// booleans as Fulcio writes them, an absent claim without a default is an error.
func expression(pieces []piece) string {
	parts := make([]string, 0, len(pieces))
	for _, p := range pieces {
		switch {
		case p.choice:
			parts = append(parts, fmt.Sprintf("(%s && %s == %s ? %s : %s)", presence(p.claim), selection(p.claim, false),
				strconv.Quote(p.equals), strconv.Quote(p.text), strconv.Quote(p.other)))
		case p.claim == "":
			parts = append(parts, strconv.Quote(p.text))
		default:
			parts = append(parts, "text("+selection(p.claim, p.optional)+")")
		}
	}
	if len(parts) == 0 {
		return `""`
	}
	return strings.Join(parts, " + ")
}

// choices lists the claims by which texts are chosen. A token without one of them
// is no match, as it is an error in Fulcio.
func choices(pieces []piece) []string {
	var all []string
	for _, p := range pieces {
		if p.choice {
			all = append(all, p.claim)
		}
	}
	return all
}

// mayHaveSlashes are claims of the usual providers whose slashes separate
// segments. In others a slash is refused: it could make one name look like
// another.
var mayHaveSlashes = map[string]bool{
	"repository": true, "project_path": true, "namespace_path": true, "pipeline_name": true, "ref": true, "sub": true,
}

// uriExpression is the constructor for the URI that the pieces make, and the
// prefix that all such URIs share.
func uriExpression(pieces []piece, issuerURL string) (expr, prefix string, err error) {
	if len(pieces) == 2 && pieces[0].text == "https://" && pieces[1].claim == "ci_config_ref_uri" && !pieces[1].choice {
		// GitLab writes its own address into the claim.
		return `workflow(issuer.url, after(claims.ci_config_ref_uri, issuer.address + "/"))`, slashed(issuerURL), nil
	}
	base := pieces[0].text
	rest, https := strings.CutPrefix(base, "https://")
	host, _, found := strings.Cut(rest, "/")
	if !https || !found || host == "" || pieces[0].claim != "" {
		return "", "", errors.New("the name does not begin with https:// and a fixed host, and whoever chooses the host chooses who the certificate is for")
	}
	if strings.ContainsFunc(base, func(r rune) bool { return r <= ' ' || r > '~' }) || strings.Contains(rest, "//") {
		return "", "", fmt.Errorf("the fixed part %q is no plain URL", clipped(base))
	}
	// The fixed part ends at its last slash; what follows belongs to a segment.
	cut := strings.LastIndexByte(base, '/')
	prefix = base[:cut+1]
	if len(pieces) == 2 && pieces[0].text == prefix && strings.HasSuffix(pieces[1].claim, "workflow_ref") {
		return fmt.Sprintf("workflow(%q, %s)", base[:cut], selection(pieces[1].claim, false)), prefix, nil
	}
	segments, err := segmentsOf(append([]piece{{text: base[cut+1:]}}, pieces[1:]...))
	if err != nil {
		return "", "", err
	}
	return fmt.Sprintf("uri(%q, %s)", base[:cut], strings.Join(segments, ", ")), prefix, nil
}

// maxSegments is how many segments uri() takes.
const maxSegments = 8

// unescaped are the characters that uri() writes as they are.
const unescaped = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:"

// segmentsOf makes one expression for each segment of a path.
func segmentsOf(pieces []piece) ([]string, error) {
	var segments []string
	var segment []piece
	empty := false
	end := func() {
		if len(segment) == 0 {
			empty = true
			return
		}
		expr := expression(segment)
		slashes := false
		for _, p := range segment {
			slashes = slashes || mayHaveSlashes[p.claim]
		}
		if len(segment) == 1 && segment[0].claim != "" {
			expr = "text(" + selection(segment[0].claim, false) + ")"
		}
		if slashes {
			expr = "path(" + expr + ")"
		}
		segments, segment = append(segments, expr), nil
	}
	for _, p := range pieces {
		if p.choice || p.optional {
			return nil, errors.New("a claim that may be absent, or a choice, decides about the name")
		}
		if p.claim != "" {
			segment = append(segment, p)
			continue
		}
		for i, text := range strings.Split(p.text, "/") {
			if i > 0 {
				end()
			}
			if strings.Trim(text, unescaped) != "" {
				return nil, fmt.Errorf("%q has a character that uri() would escape", clipped(text))
			}
			if text != "" {
				segment = append(segment, piece{text: text})
			}
		}
	}
	end()
	if empty {
		return nil, errors.New("the name has an empty segment")
	}
	if len(segments) == 0 || len(segments) > maxSegments {
		return nil, fmt.Errorf("the name has %d segments after the fixed part, and uri() takes 1 to %d", len(segments), maxSegments)
	}
	return segments, nil
}

func slashed(url string) string { return strings.TrimSuffix(url, "/") + "/" }

// clipped bounds text taken from the file into a comment.
func clipped(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
