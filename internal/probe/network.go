package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

const (
	resolveTimeout = 5 * time.Second
	// skew is the allowance that an issuer has by default, and maxSkew the most
	// that can be configured.
	skew    = 30 * time.Second
	maxSkew = 2 * time.Minute
	// certificateWarning is when the provider's certificate should be renewed.
	certificateWarning = 14 * 24 * time.Hour
)

func resolve(ctx context.Context, host string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	return net.DefaultResolver.LookupHost(ctx, host)
}

// metadata is where Amazon's instances find their credentials by IPv6; unlike
// 169.254.169.254 it is not link-local.
var metadata = netip.MustParseAddr("fd00:ec2::254")

// addresses says where the name leads, and reports whether it leads anywhere.
func (p *probe) addresses(ctx context.Context) bool {
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: p.issuer}); err == nil && proxy != nil {
		p.fact("proxy", "%s, from the environment; the service needs the same variables, or proxy", proxy.Redacted())
		return true
	}
	host := p.issuer.Hostname()
	list, err := p.cfg.Resolve(ctx, host)
	if err != nil || len(list) == 0 {
		p.Fatal("check the name and the DNS servers of this machine, and of the one that the service runs on",
			"%s has no address: %v", host, err)
		return false
	}
	p.fact("address", "%s", strings.Join(list, ", "))
	for _, text := range list {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		ip = ip.Unmap().WithZone("")
		switch {
		case ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip == metadata:
			p.Fatal("correct the DNS entry", "%s leads to %s, a link-local or metadata address, to which the service does not connect", host, ip)
		case ip.IsUnspecified():
			p.Fatal("correct the DNS entry", "%s leads to %s, which is no address to connect to", host, ip)
		case ip.IsLoopback() && !endpoint.IsLoopback(host):
			p.Entry.Loopback = append(p.Entry.Loopback, ip.String())
			p.Advise("if the provider runs on the same machine as the service, keep allow_loopback in the block below; else correct the DNS entry",
				"%s leads to %s, to which the service connects only when allow_loopback says so", host, ip)
		}
	}
	return true
}

// connection says how the provider was reached.
func (p *probe) connection(a *endpoint.Answer) {
	if a.TLS == nil {
		return
	}
	leaf := a.TLS.PeerCertificates[0]
	left := leaf.NotAfter.Sub(p.cfg.Clock())
	p.fact("TLS", "%s, certificate of %s, signed by %s, until %s", tls.VersionName(a.TLS.Version),
		name(leaf.Subject.String(), leaf.DNSNames), leaf.Issuer, leaf.NotAfter.UTC().Format(time.DateOnly))
	if left < certificateWarning {
		p.Advise("renew it; when it has expired, keys can no longer be fetched, and work for max_stale only",
			"the provider's TLS certificate ends in %d days", int(left.Hours()/24))
	}
}

func name(subject string, dns []string) string {
	if subject == "" && len(dns) > 0 {
		return dns[0]
	}
	return subject
}

// unreachable explains an error of the transport.
func (p *probe) unreachable(what string, err error) {
	bad, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		do := "check host, port and firewall; the service must reach the provider from where it runs"
		if strings.Contains(err.Error(), "protocol version") {
			do = "let the provider speak TLS 1.2 or 1.3"
		}
		p.Fatal(do, "the %s cannot be fetched: %v", what, err)
		return
	}
	var do string
	switch chain := bad.UnverifiedCertificates; {
	case isType[x509.HostnameError](err):
		do = "use a name that the certificate has, or give the provider a certificate for this one"
	case isType[x509.CertificateInvalidError](err):
		do = "give the provider a valid certificate; compare the clocks too"
	case p.cfg.CAFile != "":
		do = "put the root that signed it into the file"
	default:
		do = "give that root with --ca-file"
		p.fact("TLS", "certificate of %s, signed by %s", name(chain[0].Subject.String(), chain[0].DNSNames), chain[len(chain)-1].Issuer)
	}
	p.Fatal(do, "the provider's TLS certificate does not verify: %v", bad.Err)
}

func isType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// clock compares the Date header (RFC 9110, Section 6.6.1), which has whole
// seconds, with the time that the request took.
func (p *probe) clock(h http.Header, before, after time.Time) {
	if slices.ContainsFunc(p.Facts, func(f Fact) bool { return f.Name == "clock" }) {
		return
	}
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		p.fact("clock", "not told: the answer has no Date")
		return
	}
	var off time.Duration
	switch {
	case date.Add(time.Second).Before(before):
		off = date.Add(time.Second).Sub(before)
	case date.After(after):
		off = date.Sub(after)
	}
	off = off.Round(time.Second)
	switch {
	case off == 0:
		p.fact("clock", "the same as here, to the second")
	case off > 0:
		p.fact("clock", "%s ahead of this machine's", off)
	default:
		p.fact("clock", "%s behind this machine's", -off)
	}
	const do = "synchronise both clocks (NTP)"
	if off.Abs() > maxSkew {
		p.Fatal(do, "the clocks differ by %s: tokens seem to be of the future or too old, and clock_skew allows no more than %s", off.Abs(), maxSkew)
	} else if off.Abs() > skew {
		p.Advise(do+"; clock_skew can be raised up to 2m", "the clocks differ by %s, more than the %s that are allowed by default", off.Abs(), skew)
	}
}

// hostPort is how jwks_hosts names the host of a URL: without the default port.
func hostPort(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}
