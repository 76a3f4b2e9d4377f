package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

// maxAdminAnswer bounds what is read from the service: its longest list.
const maxAdminAnswer = 16 << 20

// askService asks the running service of a configuration through its
// administration socket, and reads the answer into answer.
func askService(ctx context.Context, f *config.File, method, path string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://mayfly"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	resp, err := stack.AdminClient(f.AdminSocket()).Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err // its URL says nothing: the socket is the address
	}
	if err != nil {
		return fmt.Errorf("asking the service at %s: %w; is it running, and may you open its socket?", f.AdminSocket(), err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return fmt.Errorf("reading the service's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct{ Error string }
		if json.Unmarshal(data, &refusal) != nil || refusal.Error == "" {
			return fmt.Errorf("the service answered with status %d", resp.StatusCode)
		}
		return errors.New(refusal.Error)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("reading the service's answer: %w", err)
	}
	return nil
}
