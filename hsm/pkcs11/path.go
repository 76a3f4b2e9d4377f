package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// checkModule returns the real path of a library that only root can have put
// there. Loading a library runs its code, in a process that can sign for an
// organization; so neither a search path nor a group-writable directory has a
// say in which one it is. The owner must be root, whoever runs this: a service
// that can write its own library can be made to.
func checkModule(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("PKCS#11 library %q must be an absolute path", path)
	}
	found, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("finding PKCS#11 library: %w", err)
	}
	st, err := os.Stat(found)
	if err != nil {
		return "", fmt.Errorf("finding PKCS#11 library: %w", err)
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("PKCS#11 library %s is not a regular file", found)
	}
	if err := checkRootOnly(found, st, 0); err != nil {
		return "", err
	}
	for dir := filepath.Dir(found); ; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return "", fmt.Errorf("checking the directories of PKCS#11 library: %w", err)
		}
		// In a sticky directory only its owner can replace what root put there.
		if err := checkRootOnly(dir, st, os.ModeSticky); err != nil {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return found, nil
		}
	}
}

// checkRootOnly refuses what others than root own or can change, unless its mode
// has one of the bits of forgiven.
func checkRootOnly(path string, st os.FileInfo, forgiven os.FileMode) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("PKCS#11 libraries cannot be checked on this system")
	}
	if sys.Uid != 0 {
		return fmt.Errorf("%s must belong to root, since its code runs beside the CA key, but belongs to user %d: run chown root %s", path, sys.Uid, path)
	}
	if st.Mode().Perm()&0o022 != 0 && st.Mode()&forgiven == 0 {
		return fmt.Errorf("%s can be changed by others than root (mode %04o): run chmod go-w %s", path, st.Mode().Perm(), path)
	}
	return nil
}
