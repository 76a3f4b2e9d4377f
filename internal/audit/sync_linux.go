package audit

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// datasync makes the content of f durable. fdatasync(2): it "does not flush
// modified metadata unless that metadata is needed in order to allow a
// subsequent data retrieval to be correctly handled", so the length is flushed
// and the times, which nobody needs, are not.
func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
