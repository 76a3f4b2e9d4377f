//go:build unix

package login

import (
	"errors"
	"syscall"
)

// taken reports that somebody else listens there.
func taken(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)
}
