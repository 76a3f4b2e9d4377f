package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
)

// headless reports that there is no screen to open a browser on.
func headless(getenv func(string) string) bool {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		return getenv("SSH_CONNECTION") != ""
	}
	return getenv("BROWSER") == "" && getenv("DISPLAY") == "" && getenv("WAYLAND_DISPLAY") == ""
}

// openBrowser starts the user's browser and does not wait for it. The address is
// one argument that starts with http, so that no shell reads it and no program
// takes it for an option.
func openBrowser(_ context.Context, address string) error {
	name, args := "xdg-open", []string{address}
	switch {
	case os.Getenv("BROWSER") != "":
		name = os.Getenv("BROWSER")
	case runtime.GOOS == "darwin":
		name = "open"
	case runtime.GOOS == "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return errors.New("there is no " + name)
	}
	// The browser outlives the login, and its chatter is not ours.
	cmd := exec.Command(path, args...) //nolint:gosec,noctx // the user's own browser; see above
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it is reaped, or outlives this program
	return nil
}
