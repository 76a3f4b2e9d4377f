package logtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	ct "github.com/google/certificate-transparency-go"
)

// Fault is a rule that a log breaks.
type Fault string

// The faults of a server.
const (
	None             Fault = ""
	Rejects          Fault = "400"
	Overloaded       Fault = "429, a second"
	OverloadedLong   Fault = "429, an hour"
	Fails            Fault = "500"
	Unavailable      Fault = "503"
	UnavailableLong  Fault = "503, an hour"
	Forbids          Fault = "403"
	Redirects        Fault = "redirect"
	Hangs            Fault = "hangs before headers"
	HangsAfterHeader Fault = "hangs after headers"
	Drips            Fault = "slow drip"
	Cuts             Fault = "connection cut"
	Floods           Fault = "oversized body"
	FloodsHeader     Fault = "oversized header"
	Mumbles          Fault = "not JSON"
)

// The faults of an SCT.
const (
	WrongKey         Fault = "wrong key"
	WrongID          Fault = "wrong id"
	Future           Fault = "future timestamp"
	Past             Fault = "past timestamp"
	ForeignIndex     Fault = "foreign leaf index"
	ForeignLeaf      Fault = "foreign leaf"
	UnknownExtension Fault = "unknown extension"
	NextVersion      Fault = "version 2"
)

// Outages are the faults that another attempt, or another log, may mend.
var Outages = []Fault{
	Fails, Unavailable, UnavailableLong, Forbids, Redirects, Hangs, HangsAfterHeader, Drips, Cuts, FloodsHeader,
}

// Lies are the faults after which a log is not to be trusted.
var Lies = []Fault{
	Floods, Mumbles, WrongKey, WrongID, Future, Past, ForeignIndex, ForeignLeaf, UnknownExtension, NextVersion,
}

// answer breaks a rule of HTTP, and reports that it did.
func (f Fault) answer(w http.ResponseWriter, r *http.Request) bool {
	status := func(code int, retryAfter string) bool {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		http.Error(w, string(f), code)
		return true
	}
	switch f {
	case Rejects:
		return status(http.StatusBadRequest, "")
	case Forbids:
		return status(http.StatusForbidden, "")
	case Overloaded:
		return status(http.StatusTooManyRequests, "1")
	case OverloadedLong:
		return status(http.StatusTooManyRequests, "3600")
	case Fails:
		return status(http.StatusInternalServerError, "")
	case Unavailable:
		return status(http.StatusServiceUnavailable, "")
	case UnavailableLong:
		return status(http.StatusServiceUnavailable, "3600")
	case Redirects:
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		return true
	case Hangs:
		<-r.Context().Done()
		return true
	case FloodsHeader:
		w.Header().Set("X-Flood", strings.Repeat("x", 64<<10))
	}
	return false
}

// send sends the answer of a log, unless the fault is in how that is done.
func (f Fault) send(w http.ResponseWriter, r *http.Request, answer any) {
	body, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	flush := func(b []byte) {
		_, _ = w.Write(b)
		_ = http.NewResponseController(w).Flush()
	}
	switch f {
	case HangsAfterHeader:
		flush(body[:1])
		<-r.Context().Done()
	case Drips:
		for i := range body {
			flush(body[i : i+1])
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	case Cuts:
		flush(body[:1])
		panic(http.ErrAbortHandler) //nolint:forbidigo // how net/http cuts a connection
	case Floods:
		_, _ = w.Write(append(body, bytes.Repeat([]byte(" "), 1<<20)...))
	case Mumbles:
		_, _ = w.Write([]byte("<html>It works!</html>"))
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}
}

// spoil breaks a rule of SCTs. The copy that the log keeps stays good.
func (l *Log) spoil(f Fault, g given) ct.SignedCertificateTimestamp {
	sct := g.sct
	leaf, entry := *g.leaf, *g.leaf.TimestampedEntry
	leaf.TimestampedEntry = &entry
	switch f {
	case WrongKey:
		return l.sign(l.foreign, leaf)
	case WrongID:
		sct.LogID.KeyID = sha256.Sum256([]byte("another log"))
	case Future:
		entry.Timestamp += uint64((2 * time.Minute).Milliseconds())
		return l.sign(l.key, leaf)
	case Past:
		entry.Timestamp -= uint64(time.Hour.Milliseconds())
		return l.sign(l.key, leaf)
	case ForeignIndex:
		sct.Extensions = slices.Clone(sct.Extensions)
		sct.Extensions[7] ^= 1
	case ForeignLeaf:
		precert := *entry.PrecertEntry
		precert.IssuerKeyHash[0] ^= 1
		entry.PrecertEntry = &precert
		return l.sign(l.key, leaf)
	case UnknownExtension:
		entry.Extensions = append(slices.Clone(entry.Extensions), 7, 0, 0)
		return l.sign(l.key, leaf)
	case NextVersion:
		sct.SCTVersion++
	}
	return sct
}
