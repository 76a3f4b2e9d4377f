package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fulcioFile is what a Fulcio identity file says.
type fulcioFile struct {
	issuers, wildcards []fulcioIssuer // by URL
	providers          map[string]fulcioProvider
	remarks            []string // about the file as a whole
}

// fulcioIssuer is an entry of oidc-issuers or meta-issuers.
type fulcioIssuer struct {
	key                                     string // under which it stands
	url, audience, kind, provider           string
	issuerClaim, subjectDomain, trustDomain string
	description, contact                    string
	environment, caCert                     string
	wildcard                                bool // it is a meta issuer
	skipEmailVerification                   bool
	unknown                                 []string
}

// fulcioProvider is an entry of ci-issuer-metadata: templates, in which claims
// win over defaults.
type fulcioProvider struct {
	defaults   map[string]string
	extensions []fulcioTemplate // in the order of Mayfly's names
	san        string
	unknown    []string
}

type fulcioTemplate struct{ name, template string }

// canonicalKey is what the spellings of a key have in common: issuer-url in YAML
// and IssuerURL in JSON, whose reader does not mind case either.
func canonicalKey(key string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(key))
}

// readFulcio reads JSON or else YAML, as Fulcio does. It is lenient where Fulcio
// is, but reports what Fulcio ignores.
func readFulcio(text []byte) (fulcioFile, error) {
	var root map[string]any
	if json.Unmarshal(text, &root) != nil {
		root = nil
		if err := yaml.Unmarshal(text, &root); err != nil {
			return fulcioFile{}, fmt.Errorf("it is neither JSON nor YAML with keys: %w", err)
		}
	}
	f := fulcioFile{providers: make(map[string]fulcioProvider)}
	var problem error
	object := func(at string, v any) map[string]any {
		m, ok := v.(map[string]any)
		if !ok && v != nil && problem == nil {
			problem = fmt.Errorf("%s does not hold keys", at)
		}
		return m
	}
	issuers := func(at string, v any) (list []fulcioIssuer) {
		m := object(at, v)
		for _, url := range slices.Sorted(maps.Keys(m)) {
			list = append(list, readIssuer(url, object(at+"."+url, m[url])))
		}
		return list
	}
	for _, key := range slices.Sorted(maps.Keys(root)) {
		switch v := root[key]; canonicalKey(key) {
		case "oidcissuers":
			f.issuers = append(f.issuers, issuers(key, v)...)
		case "metaissuers":
			f.wildcards = append(f.wildcards, issuers(key, v)...)
			for i := range f.wildcards {
				f.wildcards[i].wildcard = true
			}
		case "ciissuermetadata":
			for name, p := range object(key, v) {
				f.providers[name] = readProvider(object(key+"."+name, p))
			}
		case "define": // where Fulcio's own file keeps its anchors
		default:
			f.remarks = append(f.remarks, fmt.Sprintf("Fulcio has no key %q and ignored it, and so did this translation.", key))
		}
	}
	return f, problem
}

// scalar is the text of a single value; Fulcio demands strings where it is one.
func scalar(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	return fmt.Sprint(v)
}

func readIssuer(key string, m map[string]any) fulcioIssuer {
	is := fulcioIssuer{key: key, url: key}
	texts := map[string]*string{
		"issuerurl": &is.url, "clientid": &is.audience, "type": &is.kind, "ciprovider": &is.provider,
		"issuerclaim": &is.issuerClaim, "subjectdomain": &is.subjectDomain, "spiffetrustdomain": &is.trustDomain,
		"description": &is.description, "contact": &is.contact, "environment": &is.environment, "cacert": &is.caCert,
		"challengeclaim": new(string), // told to clients only, and ours are told what we use
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		name := canonicalKey(k)
		field, known := texts[name]
		switch {
		case known:
			*field = scalar(m[k])
		case name == "skipemailverification":
			is.skipEmailVerification = scalar(m[k]) == "true"
		default:
			is.unknown = append(is.unknown, k)
		}
	}
	return is
}

func readProvider(m map[string]any) fulcioProvider {
	p := fulcioProvider{defaults: make(map[string]string)}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		values, _ := m[k].(map[string]any)
		switch canonicalKey(k) {
		case "defaulttemplatevalues":
			for name, v := range values {
				p.defaults[name] = scalar(v)
			}
		case "extensiontemplates":
			p.readExtensions(k, values)
		case "subjectalternativenametemplate":
			p.san = scalar(m[k])
		default:
			p.unknown = append(p.unknown, k)
		}
	}
	return p
}

func (p *fulcioProvider) readExtensions(at string, values map[string]any) {
	found := make(map[string]string)
	for _, k := range slices.Sorted(maps.Keys(values)) {
		name, ok := extensionName(k)
		if !ok {
			p.unknown = append(p.unknown, at+"."+k)
			continue
		}
		if text := scalar(values[k]); strings.TrimSpace(text) != "" { // Fulcio skips the others
			found[name] = text
		}
	}
	for _, name := range extensionNames {
		if text, ok := found[name]; ok {
			p.extensions = append(p.extensions, fulcioTemplate{name, text})
		}
	}
}
