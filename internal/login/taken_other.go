//go:build !unix

package login

// taken is what an address that exists and cannot be had is on other systems:
// better no login than one that another user could listen to.
func taken(error) bool { return true }
