package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// flags parses arguments into the flags that AddFlags defines.
func flags(t testing.TB, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("mayfly", pflag.ContinueOnError)
	AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatalf("parsing %q: %v", args, err)
	}
	return fs
}

func TestFlagWinsOverVariableWinsOverFile(t *testing.T) {
	path := write(t, minimal+"logging: {level: debug, format: text}\nlimits: {in_flight: 7}\nshutdown: 20s\n")
	t.Setenv("MAYFLY_LOGGING_LEVEL", "warn")
	t.Setenv("MAYFLY_LIMITS_IN_FLIGHT", "8")
	t.Setenv("MAYFLY_METRICS", "localhost:9090")
	t.Setenv("MAYFLY_SHUTDOWN", "") // as good as unset
	c := mustLoad(t, path, flags(t, "--logging-level=error", "--limits-token-size=32KiB")).Config
	for _, tt := range []struct {
		key, from string
		got, want any
	}{
		{"logging.level", "flag", c.Logging.Level, "error"},
		{"limits.token_size", "flag", c.Limits.TokenSize, 32 * KiB},
		{"limits.in_flight", "variable", c.Limits.InFlight, 8},
		{"metrics", "variable", c.Metrics, "localhost:9090"},
		{"logging.format", "file", c.Logging.Format, "text"},
		{"shutdown", "file", c.Shutdown, 20 * time.Second},
		{"limits.per_identity", "default", c.Limits.PerIdentity, Rate{60, time.Minute}},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %v, want %v from the %s", tt.key, tt.got, tt.want, tt.from)
		}
	}
}

func TestEveryScalarCanBeSetByVariableAndFlag(t *testing.T) {
	values := map[string]string{
		"listen.address": "localhost:1", "listen.tls.certificate": "/c", "listen.tls.key": "/k",
		"public_url": "https://other.example", "metrics": ":1", "state": "/s", "shutdown": "1m0s",
		"logging.level": "error", "logging.format": "text", "limits.per_identity": "1/s",
		"limits.per_address": "2/h", "limits.in_flight": "3", "limits.token_size": "64KiB",
	}
	if len(values) != len(Scalars()) {
		t.Errorf("got values for %d scalars, want %d", len(values), len(Scalars()))
	}
	// With a certificate by default, each of certificate and key may change alone.
	path := write(t, strings.Replace(minimal, "plaintext: true", "tls: {certificate: c, key: k}", 1))
	plain := mustLoad(t, path, nil)
	for _, s := range Scalars() {
		value := values[s.Key]
		byFlag := mustLoad(t, path, flags(t, "--"+s.Flag+"="+value))
		if byFlag.Digest == plain.Digest {
			t.Errorf("--%s=%s: got the configuration without it", s.Flag, value)
		}
		t.Run(s.Variable, func(t *testing.T) {
			t.Setenv(s.Variable, value)
			byVariable := mustLoad(t, path, nil)
			if diff := cmp.Diff(byFlag.Config, byVariable.Config, exact); diff != "" {
				t.Errorf("%s=%s differs from --%s (-flag +variable):\n%s", s.Variable, value, s.Flag, diff)
			}
			if byVariable.Digest != byFlag.Digest {
				t.Errorf("%s=%s: got another digest than with --%s", s.Variable, value, s.Flag)
			}
		})
	}
}

func TestEmptyFlagSwitchesOff(t *testing.T) {
	path := write(t, minimal+"metrics: localhost:9090\n")
	if got := mustLoad(t, path, flags(t, "--metrics=")).Metrics; got != "" {
		t.Errorf("--metrics=: got %q, want it empty", got)
	}
	if got := mustLoad(t, path, flags(t)).Metrics; got != "localhost:9090" {
		t.Errorf("no flag given: got %q, want what the file says", got)
	}
}

func TestPathsInFlagsAreRelativeToTheWorkingDirectory(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := mustLoad(t, write(t, minimal), flags(t, "--state=here")).State, filepath.Join(wd, "here"); got != want {
		t.Errorf("--state=here: got %q, want %q", got, want)
	}
}

func TestProblemsNameTheVariableOrFlag(t *testing.T) {
	for _, tt := range []struct{ variable, value, arg, want string }{
		{"MAYFLY_SHUTDOWN", "15", "", "MAYFLY_SHUTDOWN: shutdown: a number without a unit"},
		{"MAYFLY_SHUTDOWN", "15", "--shutdown=16", "--shutdown: shutdown: a number without a unit"},
		{"MAYFLY_SHUTDOWN", "2h", "", "MAYFLY_SHUTDOWN: shutdown: 2h is out of bounds"},
		{"", "", "--limits-in-flight=0x10", "--limits-in-flight: limits.in_flight: write a whole number"},
		{"", "", "--limits-per-address=60", "--limits-per-address: limits.per_address: write a number and a unit"},
		{"", "", "--state=", "--state: state: required"},
		{"", "", "--public-url=http://x.example", "--public-url: public_url: clients send tokens"},
		{"MAYFLY_LISTEN_ADRESS", ":1", "", "MAYFLY_LISTEN_ADRESS: unknown variable; did you mean MAYFLY_LISTEN_ADDRESS?"},
		{"MAYFLY_LISTEN_PLAINTEXT", "true", "", "MAYFLY_LISTEN_PLAINTEXT: listen.plaintext: no variable can set this key"},
		{"MAYFLY_LOGS", "disabled", "", "MAYFLY_LOGS: logs: no variable can set this key"},
		{"MAYFLY_ISSUERS", "x", "", "MAYFLY_ISSUERS: issuers: no variable can set this key"},
	} {
		t.Run(tt.variable+tt.arg, func(t *testing.T) {
			if tt.variable != "" {
				t.Setenv(tt.variable, tt.value)
			}
			var args []string
			if tt.arg != "" {
				args = append(args, tt.arg)
			}
			_, err := load(write(t, minimal), flags(t, args...), now)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s=%s %s: got error %v, want one line that starts with %s", tt.variable, tt.value, tt.arg, err, tt.want)
			}
		})
	}
}

// Kubernetes describes a service called mayfly in variables with our prefix.
func TestVariablesOfKubernetesDoNoHarm(t *testing.T) {
	path := write(t, minimal)
	plain := mustLoad(t, path, nil)
	for _, name := range []string{"MAYFLY_SERVICE_HOST", "MAYFLY_SERVICE_PORT", "MAYFLY_PORT", "MAYFLY_PORT_8443_TCP",
		"MAYFLY_PORT_8443_TCP_ADDR", "MAYFLY_METRICS_PORT", "MAYFLY_METRICS_SERVICE_HOST", "MAYFLY_CONFIG"} {
		t.Setenv(name, "tcp://10.0.0.1:8443")
	}
	if got := mustLoad(t, path, nil); got.Digest != plain.Digest {
		t.Errorf("got configuration %+v, want %+v", got.Config, plain.Config)
	}
}
