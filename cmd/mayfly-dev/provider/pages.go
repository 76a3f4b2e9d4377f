package provider

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
)

//go:embed login.html style.css
var assets embed.FS

// browserCookie tells browsers apart between the pages of a sign-in. It carries
// no session: every sign-in asks for the password.
const browserCookie = "mayfly_demo_browser"

// pages are what people see: the login page and the device page.
type pages struct {
	store *store
	users accounts
	log   *slog.Logger
	tmpl  *template.Template
	style []byte
	// formKey makes the hidden form tokens.
	formKey [sha256.Size]byte
}

func newPages(st *store, users accounts, log *slog.Logger) (*pages, error) {
	p := &pages{store: st, users: users, log: log}
	var err error
	if p.tmpl, err = template.ParseFS(assets, "login.html"); err != nil {
		return nil, fmt.Errorf("parsing the login page: %w", err)
	}
	if p.style, err = assets.ReadFile("style.css"); err != nil {
		return nil, fmt.Errorf("reading the style sheet: %w", err)
	}
	if _, err := rand.Read(p.formKey[:]); err != nil {
		return nil, fmt.Errorf("making the form key: %w", err)
	}
	return p, nil
}

// view is what the template shows.
type view struct {
	Action, ID, Token string
	Device            bool
	UserCode          string
	Email             string
	Error             string
	Done              string // who signed in; the page then has no form
	Users             []User
}

func (p *pages) showLogin(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	browser := ensureBrowser(w, r)
	in, err := p.store.adopt(id, browser)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	hint := in.request.LoginHint
	if _, known := p.users.byEmail(hint); !known {
		hint = ""
	}
	p.loginForm(w, r, in, http.StatusOK, view{Email: hint, Token: p.formToken(browser, id)})
}

func (p *pages) doLogin(w http.ResponseWriter, r *http.Request) {
	id, browser := r.PostFormValue("id"), browserOf(r)
	if !p.formTokenValid(r, browser, id) {
		p.refuse(w, r, errOtherBrowser)
		return
	}
	in, err := p.store.adopt(id, browser)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	email := r.PostFormValue("email")
	u, err := p.store.login(id, email, r.PostFormValue("password"))
	switch {
	case errors.Is(err, errCredentials):
		p.loginForm(w, r, in, http.StatusUnauthorized,
			view{Email: email, Token: p.formToken(browser, id), Error: "Email or password is wrong."})
	case err != nil:
		p.refuse(w, r, err)
	default:
		p.log.InfoContext(r.Context(), "demo user signed in", "subject", u.Subject)
		http.Redirect(w, r, callbackPath+"?id="+url.QueryEscape(id), http.StatusSeeOther)
	}
}

func (p *pages) loginForm(w http.ResponseWriter, r *http.Request, in signIn, status int, v view) {
	v.Action, v.ID = loginPath, in.id
	w.Header().Set("Content-Security-Policy", contentPolicy(in.origin))
	p.render(w, r, status, v)
}

func (p *pages) showDevice(w http.ResponseWriter, r *http.Request) {
	p.deviceForm(w, r, ensureBrowser(w, r), http.StatusOK, view{UserCode: r.URL.Query().Get("user_code")})
}

func (p *pages) doDevice(w http.ResponseWriter, r *http.Request) {
	browser := browserOf(r)
	if !p.formTokenValid(r, browser, devicePath) {
		p.refuse(w, r, errOtherBrowser)
		return
	}
	v := view{UserCode: r.PostFormValue("user_code"), Email: r.PostFormValue("email")}
	u, err := p.store.approve(v.UserCode, v.Email, r.PostFormValue("password"))
	switch {
	case errors.Is(err, errCredentials):
		v.Error = "Email or password is wrong."
		p.deviceForm(w, r, browser, http.StatusUnauthorized, v)
	case err != nil:
		v.Error = "This code is unknown or has expired."
		p.deviceForm(w, r, browser, http.StatusBadRequest, v)
	default:
		p.log.InfoContext(r.Context(), "demo user approved a device", "subject", u.Subject)
		p.render(w, r, http.StatusOK, view{Done: u.Email})
	}
}

func (p *pages) deviceForm(w http.ResponseWriter, r *http.Request, browser string, status int, v view) {
	v.Action, v.ID, v.Device = devicePath, devicePath, true
	v.Token = p.formToken(browser, devicePath)
	p.render(w, r, status, v)
}

// refuse answers a sign-in that cannot go on. There is nowhere safe to redirect.
func (p *pages) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p.log.InfoContext(r.Context(), "demo sign-in refused", "err", err)
	p.render(w, r, http.StatusForbidden, view{
		Error: "This sign-in has expired or was started in another browser. Go back to the program that sent you here and try again.",
	})
}

func (p *pages) render(w http.ResponseWriter, r *http.Request, status int, v view) {
	v.Users = p.users
	var page bytes.Buffer
	if err := p.tmpl.Execute(&page, v); err != nil {
		p.log.ErrorContext(r.Context(), "login page not rendered", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w)
}

func (p *pages) serveStyle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = w.Write(p.style)
}

// ensureBrowser returns the browser's cookie, and gives it one first if it has
// none.
func ensureBrowser(w http.ResponseWriter, r *http.Request) string {
	if b := browserOf(r); b != "" {
		return b
	}
	b := rand.Text()
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // G124: not Secure, as the provider speaks plain HTTP, on loopback
		Name: browserCookie, Value: b, Path: "/",
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	return b
}

func browserOf(r *http.Request) string {
	c, err := r.Cookie(browserCookie)
	if err != nil || len(c.Value) > 64 {
		return ""
	}
	return c.Value
}

// formToken binds a form to the browser it was made for and to what it is about.
func (p *pages) formToken(browser, about string) string {
	mac := hmac.New(sha256.New, p.formKey[:])
	mac.Write([]byte(browser + "\x00" + about))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (p *pages) formTokenValid(r *http.Request, browser, about string) bool {
	return browser != "" && hmac.Equal([]byte(r.PostFormValue("token")), []byte(p.formToken(browser, about)))
}
