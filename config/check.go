package config

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// checker holds the rules about what a configuration says, as the decoder holds
// those about how it is written.
type checker struct {
	file     *File
	now      time.Time
	problems Problems
}

// check returns what is wrong with a decoded configuration at a given time.
func check(f *File, now time.Time) Problems {
	c := &checker{file: f, now: now}
	c.listen()
	c.publicURL()
	if f.State == "" {
		c.bad("state", "required; name the directory that belongs to this process, such as /var/lib/mayfly")
	}
	c.duration("shutdown", f.Shutdown, time.Second, 5*time.Minute)
	c.word("logging.level", f.Logging.Level, logLevels)
	c.word("logging.format", f.Logging.Format, logFormats)
	c.limits()
	if f.LogAlone() {
		c.logAlone()
	} else {
		c.issuers()
		c.chains()
	}
	c.profiles()
	c.authorities()
	c.tokens()
	c.logs()
	c.timestampAuthorities()
	return c.problems
}

func (c *checker) bad(path, format string, args ...any) {
	c.problems = append(c.problems, c.file.Problem(path, format, args...))
}

func (c *checker) listen() {
	l := c.file.Listen
	c.address("listen.address", l.Address)
	given := l.TLS.Certificate != "" || l.TLS.Key != ""
	switch {
	case l.Plaintext && given:
		c.bad("listen.plaintext", "TLS and plaintext exclude each other; remove listen.tls or listen.plaintext")
	case !l.Plaintext && !given:
		c.bad("listen", "write tls: {certificate: FILE, key: FILE}, or plaintext: true if a proxy terminates TLS")
	case given && l.TLS.Certificate == "":
		c.bad("listen.tls.certificate", "required with listen.tls.key; name the PEM file with the certificate")
	case given && l.TLS.Key == "":
		c.bad("listen.tls.key", "required with listen.tls.certificate; name the PEM file with its key")
	}
	for i, p := range l.TrustedProxies {
		if p.IsValid() && p.Bits() == 0 {
			c.bad(index("listen.trusted_proxies", i), "%v would let every client choose its own address; name the proxies", p)
		}
	}
	if m := c.file.Metrics; m != "" {
		c.address("metrics", m)
		if m == l.Address && !portOpen(m) {
			c.bad("metrics", "the service itself listens on %s; give metrics another port", m)
		}
	}
}

// portOpen reports that the system chooses the port of an address.
func portOpen(address string) bool { return strings.HasSuffix(address, ":0") }

var hostname = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

// address checks something to listen on. Port 0 lets the system choose.
func (c *checker) address(path, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		c.bad(path, "%q is not an address; write host:port, or :port for all interfaces", clip(address))
		return
	}
	if n, err := parseInt(port); err != nil || port == "" || n > 65535 {
		c.bad(path, "%q is not a port; write a number from 0 to 65535", clip(port))
	}
	if host != "" && !isHost(host) {
		c.bad(path, "%q is neither a host name nor an IP address; correct it", clip(host))
	}
}

// isHost reports that host is a host name or an IP address without brackets.
// What looks like a number is an IPv4 address or nothing: resolvers disagree
// about 127.1.
func isHost(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Zone() == ""
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	_, err := strconv.Atoi(last)
	return err != nil && len(host) <= 253 && hostname.MatchString(host)
}

func (c *checker) publicURL() {
	const key = "public_url"
	raw := c.file.PublicURL
	if raw == "" {
		c.bad(key, "required; write the https URL under which clients reach the service, such as https://mayfly.corp.example")
		return
	}
	u := c.url(key, raw, "https", "http")
	switch {
	case u == nil:
	case u.Scheme == "http" && (!c.file.Listen.Plaintext || !isLoopback(u.Hostname())):
		c.bad(key, "clients send tokens to this URL; write an https URL (http is for a loopback host with listen.plaintext only)")
	case strings.HasSuffix(u.Path, "/") || !isPlainPath(u.Path) || u.RawPath != "":
		c.bad(key, "clients append /api/... to this URL; write it without a slash at the end, dot segments or escapes")
	}
}

// url checks an absolute URL and returns it, or nil when it is not usable.
func (c *checker) url(path, raw string, schemes ...string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" {
		c.bad(path, "%q is not usable; write an absolute URL that starts with %s://", clip(raw), strings.Join(schemes, ":// or "))
		return nil
	}
	switch {
	case u.User != nil:
		c.bad(path, "the URL contains a user name or password; remove it")
	case strings.ContainsAny(raw, "?#"):
		c.bad(path, "the URL contains a query or fragment; remove it")
	case strings.Contains(raw, `\`):
		c.bad(path, "the URL contains a backslash; write /")
	case !isHost(u.Hostname()):
		c.bad(path, "%q is neither a host name (in ASCII) nor an IP address; correct it", clip(u.Hostname()))
	case strings.HasSuffix(u.Host, ":") || !validPort(u.Port()):
		c.bad(path, "the port is not a number from 1 to 65535; correct or remove it")
	case !isVisibleASCII(raw):
		c.bad(path, "the URL contains characters outside ASCII, or spaces; percent-encode them")
	default:
		return u
	}
	return nil
}

func validPort(port string) bool {
	n, err := parseInt(port)
	return port == "" || (err == nil && n >= 1 && n <= 65535)
}

func isVisibleASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isPlainPath reports that every segment of an absolute path is a name. A slash
// may end the path.
func isPlainPath(path string) bool {
	if path == "" || path == "/" {
		return true
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(path[1:], "/"), "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

// isLoopback reports that host cannot lead off this machine.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && a.IsLoopback())
}

// canonicalURL is what two URLs have in common that lead to the same place.
func canonicalURL(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname())
	port := u.Port()
	if (scheme == "https" && port == "443") || (scheme == "http" && port == "80") {
		port = ""
	}
	return scheme + "://" + net.JoinHostPort(host, port) + strings.TrimRight(u.EscapedPath(), "/")
}

func (c *checker) limits() {
	if n := c.file.Limits.InFlight; n < 1 || n > 65536 {
		c.bad("limits.in_flight", "%d is out of bounds; write a number from 1 to 65536", n)
	}
	if s := c.file.Limits.TokenSize; s < KiB || s > 64*KiB {
		c.bad("limits.token_size", "%v is out of bounds; write a size from 1KiB to 64KiB", s)
	}
}

func (c *checker) duration(path string, d, least, most time.Duration) {
	if d < least || d > most {
		c.bad(path, "%s is out of bounds; write a duration from %s to %s", brief(d), brief(least), brief(most))
	}
}

// brief writes 10m0s as 10m, as an operator would.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (c *checker) word(path, word string, words []string) {
	if !slices.Contains(words, word) {
		c.bad(path, "%q is not known; use one of %s", clip(word), strings.Join(words, ", "))
	}
}

// words checks a list that must not be empty, of words from a closed set.
func (c *checker) words(path string, list, words []string) {
	if len(list) == 0 {
		c.bad(path, "the list is empty; name at least one of %s, or remove the key for the default", strings.Join(words, ", "))
	}
	for i, w := range list {
		c.word(index(path, i), w, words)
	}
	c.unique(path, list)
}

// unique refuses entries that are empty or repeated.
func (c *checker) unique(path string, list []string) {
	seen := make(map[string]int, len(list))
	for i, s := range list {
		first, again := seen[s]
		switch {
		case s == "":
			c.bad(index(path, i), "the entry is empty; remove it")
		case again:
			c.bad(index(path, i), "%q was given before, in line %d; remove one of them", clip(s), c.file.Line(index(path, first)))
		default:
			seen[s] = i
		}
	}
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// name checks the name of list entry i, unique among the names seen before.
// Names go into metrics, audit records and file names.
func (c *checker) name(list string, i int, name string, seen map[string]int) {
	key := join(index(list, i), "name")
	first, again := seen[name]
	switch {
	case name == "":
		c.bad(key, "required; give the entry a name, which metrics and audit records will show")
	case !nameForm.MatchString(name):
		c.bad(key, "%q is not usable; write up to 63 lower-case letters, digits, dots, dashes and underscores, with a letter or digit at both ends", clip(name))
	case again:
		c.bad(key, "%q is also the name of the entry in line %d; rename one of them", name, c.file.Line(index(list, first)))
	default:
		seen[name] = i
	}
}
