package stack

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/config"
)

// newLogPlan is newPlan of a configuration of a log alone.
func newLogPlan(f *config.File, c planning) *plan {
	p := emptyPlan(f)
	p.planTLS()
	p.planLogs()
	if isDemoState(f.State) != c.demo {
		p.bad("state", "%s", demoStateAdvice(f.State, c.demo))
	}
	return p
}

// planSubmission reads the files of a submission listener, as opening it does.
func (p *plan) planSubmission(path string, c *config.LogSubmission) {
	if c == nil {
		return
	}
	pair := live[*tls.Certificate]{files: []string{c.TLS.Certificate, c.TLS.Key}, build: buildPair}
	if err := pair.load(); err != nil {
		p.bad(path+".tls", "%v", err)
	}
	if data, err := files.Read(c.ClientCA); err != nil {
		p.bad(path+".client_ca", "%v", err)
	} else if _, err := buildPool([][]byte{data}); err != nil {
		p.bad(path+".client_ca", "%s: %v", c.ClientCA, err)
	}
	for i, name := range c.Issuers {
		at := fmt.Sprintf("%s.issuers[%d]", path, i)
		if data, err := files.Read(name); err != nil {
			p.bad(at, "%v", err)
		} else if _, err := buildIssuers([][]byte{data}); err != nil {
			p.bad(at, "%s: %v", name, err)
		}
	}
}

// errLogAlone is for those who would serve a configuration of a log alone as a
// certificate authority.
var errLogAlone = errors.New("this is the configuration of a log alone, without issuers and chains: serve it with mayfly log serve, or add them")
