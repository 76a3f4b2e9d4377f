package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/freeze"
)

// freezeFile keeps what is frozen.
func freezeFile(state string) string { return filepath.Join(state, "frozen.json") }

// Limits of the administrators' door.
const (
	maxAdminBody = 128 << 10
	adminTimeout = 10 * time.Second
	// reloadTimeout bounds a reload, which may log in to HSMs.
	reloadTimeout = 60 * time.Second
)

// startAdmin listens on the socket. File permissions decide who is an
// administrator: it has mode 0600 and belongs to the user that the service runs as.
// A socket that a crash left behind is
// replaced: the journal's lock has shown already that no other service lives
// here.
func (s *Stack) startAdmin(ctx context.Context, path string) (io.Closer, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the old administration socket: %w", err)
	}
	ln, err := listenPrivate(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("listening for administrators: %w", err)
	}
	srv := &http.Server{
		Handler: s.adminHandler(), ReadHeaderTimeout: adminTimeout, ReadTimeout: adminTimeout,
		WriteTimeout: adminTimeout, MaxHeaderBytes: 16 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("administration stopped", "err", err)
		}
	}()
	return closerFunc(func() error {
		err := srv.Close()
		<-done
		return err
	}), nil
}

// listenPrivate makes a socket that is never open to others, not even for the
// moment between making it and setting its mode: it is made in a directory of
// its own and then renamed into place.
func listenPrivate(ctx context.Context, path string) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".admin-*") // 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // empty by then
	private := filepath.Join(dir, "s")
	address, release, err := socketAddress(private)
	if err != nil {
		return nil, err
	}
	defer release()
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", address)
	if err != nil {
		return nil, err
	}
	if unix, ok := ln.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false) // its name has changed by then
	}
	if err := errors.Join(os.Chmod(private, 0o600), os.Rename(private, path)); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// maxSocketPath is what fits into sockaddr_un on every system.
const maxSocketPath = 100

// socketAddress returns a name for a socket that is short enough to be one.
// State directories have long paths in containers and tests; an open directory
// has a short one.
func socketAddress(path string) (address string, release func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { _ = dir.Close() }, nil
}

// AdminClient returns a client whose every request goes to the administration
// socket of a service.
func AdminClient(socket string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		address, release, err := socketAddress(socket)
		if err != nil {
			return nil, err
		}
		defer release()
		return new(net.Dialer).DialContext(ctx, "unix", address)
	}
	return &http.Client{Timeout: adminTimeout + reloadTimeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// adminHandler answers /v1/freeze (GET lists, POST freezes, DELETE thaws), POST
// /v1/explain, POST /v1/reload, GET /v1/status and GET /v1/logs.
func (s *Stack) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/freeze", func(w http.ResponseWriter, _ *http.Request) {
		s.adminAnswer(w, http.StatusOK, s.frozen.Entries())
	})
	mux.HandleFunc("POST /v1/freeze", func(w http.ResponseWriter, r *http.Request) { s.adminChange(w, r, "freeze", s.freeze) })
	mux.HandleFunc("DELETE /v1/freeze", func(w http.ResponseWriter, r *http.Request) { s.adminChange(w, r, "unfreeze", s.frozen.Unfreeze) })
	mux.HandleFunc("POST /v1/explain", s.explain)
	mux.HandleFunc("POST /v1/reload", s.adminReload)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		s.adminAnswer(w, http.StatusOK, s.Status())
	})
	mux.HandleFunc("GET /v1/logs", func(w http.ResponseWriter, r *http.Request) {
		status, err := s.Logs(r.Context())
		if err != nil {
			s.adminAnswer(w, http.StatusConflict, adminError{err.Error()})
			return
		}
		s.adminAnswer(w, http.StatusOK, status)
	})
	return http.MaxBytesHandler(mux, maxAdminBody)
}

// frozenIssuer is the issuer that an entry names; empty if it names none.
func frozenIssuer(e freeze.Entry) string {
	if e.Kind == freeze.Issuer {
		return e.Value
	}
	return e.Issuer
}

func issuerNames(f *config.File) (names []string) {
	for _, is := range f.Issuers {
		names = append(names, is.Name)
	}
	return names
}

// warnOfFreezes tells of entries that stop nobody since an issuer was renamed. Who
// removes an issuer means to; who renames one has forgotten what it is frozen by.
func (s *Stack) warnOfFreezes(f *config.File) {
	for _, e := range s.frozen.Entries() {
		if name := frozenIssuer(e); name != "" && !slices.Contains(issuerNames(f), name) {
			s.logger.Warn("a freeze names an issuer that is not in the configuration and stops nobody; if it was renamed, freeze it by its new name",
				"issuer", name, "kind", e.Kind, "value", e.Value)
		}
	}
}

// freeze adds an entry. An issuer that is not configured would freeze nobody and
// look like success; unfreeze takes any, for the configuration may have changed.
func (s *Stack) freeze(e freeze.Entry) error {
	name, names := frozenIssuer(e), issuerNames(s.current.Load().file)
	if name != "" && !slices.Contains(names, name) {
		return fmt.Errorf("there is no issuer named %q; the configuration has %s", name, strings.Join(names, ", "))
	}
	return s.frozen.Freeze(e)
}

// adminChange makes a change and records it. The record comes second: freezing
// must work even when the journal does not, in a night when much goes wrong.
func (s *Stack) adminChange(w http.ResponseWriter, r *http.Request, what string, change func(freeze.Entry) error) {
	var e freeze.Entry
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		s.adminAnswer(w, http.StatusBadRequest, adminError{fmt.Sprintf("reading the request: %v", err)})
		return
	}
	if err := change(e); err != nil {
		s.adminAnswer(w, http.StatusConflict, adminError{err.Error()})
		return
	}
	s.logger.Info(what, "kind", e.Kind, "value", e.Value, "issuer", e.Issuer, "note", e.Note)
	if err := s.journal.Event(r.Context(), what, slog.String("kind", string(e.Kind)), slog.String("value", e.Value),
		slog.String("issuer", e.Issuer), slog.String("note", e.Note)); err != nil {
		s.logger.Error("an administrator's change is not in the journal", "change", what, "err", err)
		s.adminAnswer(w, http.StatusInternalServerError, adminError{"done, but the audit journal did not record it: " + err.Error()})
		return
	}
	s.adminAnswer(w, http.StatusOK, s.frozen.Entries())
}

// adminReload reloads the configuration. An administrator who has gone away does
// not leave it half done.
func (s *Stack) adminReload(w http.ResponseWriter, r *http.Request) {
	// Not supported outside of net/http's own servers.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reloadTimeout + adminTimeout))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), reloadTimeout)
	defer cancel()
	done, err := s.Reload(ctx, "administrator")
	if err != nil {
		s.adminAnswer(w, http.StatusConflict, adminError{err.Error()})
		return
	}
	s.adminAnswer(w, http.StatusOK, done)
}

// adminError is what an administrator reads. Unlike a client's, it hides nothing.
type adminError struct {
	Error string `json:"error"`
}

func (s *Stack) adminAnswer(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.logger.Debug("answering an administrator", "err", err)
	}
}
