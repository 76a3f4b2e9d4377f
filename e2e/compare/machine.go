package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/report"
)

// versions are what the figures depend on. What cannot be found out is said to
// be unknown: it is no reason not to measure.
func versions(ctx context.Context, mayflyPath, fulcioPath string) []report.Version {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all := []report.Version{{Name: "Mayfly", Is: orUnknown(output(ctx, "git", "-C", filepath.Dir(mayflyPath), "describe", "--always", "--tags", "--dirty"))}}
	if fulcioPath != "" {
		_, rest, _ := strings.Cut(output(ctx, fulcioPath, "version"), "GitVersion:")
		version, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
		all = append(all, report.Version{Name: "Fulcio", Is: orUnknown(version)})
	}
	return append(all,
		report.Version{Name: "Go", Is: strings.TrimPrefix(runtime.Version(), "go") + ", " + runtime.GOOS + "/" + runtime.GOARCH},
		report.Version{Name: "CPU", Is: fmt.Sprintf("%s, %d cores, shared by servers, generator, provider and log", orUnknown(cpuModel()), runtime.NumCPU())},
	)
}

func output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output() //nolint:gosec // git, and the program that is compared
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // it was only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
