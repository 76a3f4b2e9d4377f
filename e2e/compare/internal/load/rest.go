package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// REST is requests to one of the REST APIs, laid out as bytes.
type REST struct {
	// Address is host:port; TLS is nil for plaintext.
	Address string
	TLS     *tls.Config
	// Fresh opens a connection for each request, as jobs of a CI system do.
	Fresh bool
	// Source is the local address of a client; nil lets the kernel choose.
	Source func(client int) net.IP
	// Want is the status of success.
	Want     int
	Expected Expected
	// Junk is requests of which nothing is expected but an answer, or its refusal
	// by the end of the connection.
	Junk bool

	applicants []Applicant
	requests   [][]byte
}

// maxBody bounds what is read of an answer.
const maxBody = 1 << 20

// V2 lays out requests for the second version of the API.
func (r *REST) V2(applicants []Applicant) error {
	r.Want = http.StatusOK
	return r.layOut("/api/v2/signingCert", applicants, func(a Applicant) any {
		return map[string]any{"publicKeyRequest": map[string]any{
			"publicKey": map[string]any{"algorithm": "PUBLIC_KEY_ALGORITHM_UNSPECIFIED", "content": a.PEM}, "proofOfPossession": a.Proof,
		}}
	})
}

// V1 lays out requests for the first version of the API.
func (r *REST) V1(applicants []Applicant) error {
	r.Want = http.StatusCreated
	return r.layOut("/api/v1/signingCert", applicants, func(a Applicant) any {
		return map[string]any{
			"publicKey":          map[string]any{"algorithm": "ecdsa", "content": []byte(a.PEM)},
			"signedEmailAddress": a.Proof,
		}
	})
}

func (r *REST) layOut(path string, applicants []Applicant, body func(Applicant) any) error {
	r.applicants, r.requests = applicants, make([][]byte, len(applicants))
	for i, a := range applicants {
		text, err := json.Marshal(body(a))
		if err != nil {
			return fmt.Errorf("laying out a request: %w", err)
		}
		r.requests[i] = r.Raw(path, a.Token, text)
	}
	return nil
}

// Raw is the bytes of a request.
func (r *REST) Raw(path, token string, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: compare\r\nAccept: application/json\r\n"+
		"Content-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n", path, r.Address, token, len(body))
	if r.Fresh {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// Send lays out requests that somebody else has made.
func (r *REST) Send(requests [][]byte) { r.requests = requests }

// Dial makes a client.
func (r *REST) Dial(client int) Caller {
	dialer := &net.Dialer{}
	if r.Source != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: r.Source(client)}
	}
	return &restClient{api: r, dialer: dialer}
}

// restClient writes prepared bytes and reads answers: net/http's client would
// use as much CPU as the server that it measures, on the same cores.
type restClient struct {
	api    *REST
	dialer *net.Dialer
	conn   net.Conn
	reader *bufio.Reader
	body   bytes.Buffer
}

func (c *restClient) Call(ctx context.Context, number int) error {
	err := c.call(ctx, number%len(c.api.requests), number)
	if err != nil || c.api.Fresh {
		c.hangUp()
	}
	return err
}

func (c *restClient) call(ctx context.Context, index, number int) error {
	if c.conn == nil {
		if err := c.open(ctx); err != nil {
			return err
		}
	}
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	if _, err := c.conn.Write(c.api.requests[index]); err != nil && !c.api.Junk {
		return fmt.Errorf("sending a request: %w", err)
	}
	status, err := c.answer()
	if c.api.Junk {
		return refused(status, err)
	}
	if err != nil {
		return err
	}
	if status != c.api.Want {
		return fmt.Errorf("status %d: %.300s", status, c.body.Bytes())
	}
	return c.api.Expected.checkREST(c.body.Bytes(), number, c.api.applicants[index])
}

// refused is the check of an answer to junk: a server may just hang up.
func refused(status int, err error) error {
	if err == nil && status < http.StatusBadRequest {
		return fmt.Errorf("junk was answered with status %s", strconv.Itoa(status))
	}
	return err
}

func (c *restClient) open(ctx context.Context) error {
	conn, err := c.dialer.DialContext(ctx, "tcp", c.api.Address)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	if c.api.TLS != nil {
		secure := tls.Client(conn, c.api.TLS)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return fmt.Errorf("shaking hands: %w", err)
		}
		conn = secure
	}
	c.conn, c.reader = conn, bufio.NewReaderSize(conn, 16<<10)
	return nil
}

// answer reads status and body.
func (c *restClient) answer() (int, error) {
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, fmt.Errorf("reading an answer: %w", err)
	}
	defer resp.Body.Close()
	c.body.Reset()
	n, err := c.body.ReadFrom(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return 0, fmt.Errorf("reading an answer's body: %w", err)
	}
	if n > maxBody {
		return 0, fmt.Errorf("an answer of more than %d bytes", maxBody)
	}
	if resp.Close {
		c.hangUp()
	}
	return resp.StatusCode, nil
}

func (c *restClient) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *restClient) Close() error {
	c.hangUp()
	return nil
}

// SourceIn gives every client an address of its own in 127.0.block.0/24, for
// servers that count by address.
func SourceIn(block byte) func(int) net.IP {
	return func(client int) net.IP { return net.IPv4(127, 0, block, byte(1+client%250)) }
}

// DefaultTimeout of a request is longer than that of any client that is known.
const DefaultTimeout = 10 * time.Second
