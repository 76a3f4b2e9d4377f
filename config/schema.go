package config

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// The schema is the structs of config.go, issuer.go, pki.go and log.go. The yaml tag names
// a key. The config tag says more about some: of a string that it names a file
// that must exist, or a library that must exist and is never relative, or a place
// that Mayfly writes to, or that it is an expression; of any key of an issuer that
// its default is the preset's.
const (
	tagFile       = "file"
	tagModule     = "module"
	tagPath       = "path"
	tagExpression = "expression"
	tagPreset     = "preset"
)

// keyOf is the name under which a struct field stands in the file.
func keyOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// keysOf lists the keys of a struct in the order of the manual.
func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range t.Fields() {
		keys = append(keys, keyOf(f))
	}
	return keys
}

var logsType = reflect.TypeFor[Logs]()

// isScalar reports that a value of type t is one word in the file, although Go
// may know it as a struct.
func isScalar(t reflect.Type) bool {
	return t.Kind() != reflect.Pointer && t.Kind() != reflect.Slice && parserOf(t) != nil
}

// walk calls visit for every struct field below v, entries of lists included.
func walk(v reflect.Value, path string, visit func(path string, f reflect.StructField, v reflect.Value)) {
	switch {
	case v.Type() == logsType:
		walk(v.FieldByName("List"), path, visit)
	case isScalar(v.Type()):
	case v.Kind() == reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), path, visit)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), index(path, i), visit)
		}
	case v.Kind() == reflect.Struct:
		for f, fv := range v.Fields() {
			p := join(path, keyOf(f))
			visit(p, f, fv)
			walk(fv, p, visit)
		}
	}
}

// FileRef is a file that the configuration names and that must exist.
type FileRef struct {
	// KeyPath is where the configuration names it, such as chains[0].key.file.
	KeyPath string
	// Path is the file, absolute.
	Path string
	// Library says that the file is code, which is loaded once and for all.
	Library bool
}

// References lists every file that must exist for c to work, in the order of the
// schema. Files and directories that Mayfly makes itself are not among them.
func References(c Config) []FileRef {
	var refs []FileRef
	walk(reflect.ValueOf(c), "", func(path string, f reflect.StructField, v reflect.Value) {
		tag := f.Tag.Get("config")
		if tag != tagFile && tag != tagModule {
			return
		}
		if v.Kind() == reflect.Slice {
			for i := range v.Len() {
				refs = append(refs, FileRef{KeyPath: index(path, i), Path: v.Index(i).String()})
			}
		} else if v.String() != "" {
			refs = append(refs, FileRef{KeyPath: path, Path: v.String(), Library: tag == tagModule})
		}
	})
	return refs
}

// defaulter is a struct with defaults that are not zero. They are set before
// decoding, so that an explicit zero stays one.
type defaulter interface{ setDefaults() }

// newValue returns a pointer to a new t with its defaults.
func newValue(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if d, ok := v.Interface().(defaulter); ok {
		d.setDefaults()
	}
	return v
}

func (c *Config) setDefaults() {
	c.Listen.Address = ":8443"
	c.Shutdown = 15 * time.Second
	c.Logging = Logging{Level: "info", Format: "json"}
	c.Limits = Limits{
		PerIdentity: Rate{60, time.Minute},
		PerAddress:  Rate{600, time.Minute},
		InFlight:    256,
		TokenSize:   16 * KiB,
	}
	c.LogAudit.Interval = 30 * time.Second
}

func (i *Issuer) setDefaults() {
	i.Preset = PresetGeneric
	i.ClockSkew = 30 * time.Second
	i.Refresh = 10 * time.Minute
	i.MaxStale = 24 * time.Hour
}

func (r *Rule) setDefaults() { r.Profile, r.Authority = DefaultName, DefaultName }

func (p *Profile) setDefaults() {
	p.Lifetime = 10 * time.Minute
	p.Backdate = 30 * time.Second
	p.Keys = slices.Clone(keyKinds)
}

func (c *Chain) setDefaults() { c.Authority, c.MinLead = DefaultName, day }

func (s *LogSubmission) setDefaults() { s.PerClient = Rate{6000, time.Minute} }

func (r *RemoteLog) setDefaults() { r.Timeout = maxLogTimeout }

func (t *Token) setDefaults() { t.MaxSessions = 8 }

// addDefaultProfile makes sure that the default profile exists. It goes to the
// end, so that indexes keep pointing at the entries of the file.
func (c *Config) addDefaultProfile() {
	if slices.ContainsFunc(c.Profiles, func(p Profile) bool { return p.Name == DefaultName }) {
		return
	}
	p := Profile{Name: DefaultName}
	p.setDefaults()
	c.Profiles = append(c.Profiles, p)
}

// The closed sets of words that some keys accept.
var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"json", "text"}
	algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	keyKinds   = []string{"ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"}
	sanKinds   = []string{SANEmail, SANURI}
	nameKinds  = []string{SANEmail, SANURI, "username"}
	tokenKinds = []string{AcceptIDToken, AcceptAccessToken}
	presets    = []string{PresetGeneric, PresetKeycloak, PresetADFS, PresetEntra, PresetGitLab, PresetGitHub, PresetJenkins, PresetKubernetes, PresetSPIFFE}
)
