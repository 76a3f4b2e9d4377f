// Package keys opens the keys that a configuration names, in files and on PKCS#11
// tokens, for the service and for commands.
//
// A token is opened once in a process and shared by the keys on it; a PIN that it
// refused is not tried again, by the next process neither. Opening and closing are
// bounded in time, whatever a token's library does. What a key signs, and whether
// it is that of its chain, is not looked at here.
package keys
