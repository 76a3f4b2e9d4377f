// Package config gives an administrator one strict YAML file, and the rest of
// the program plain data that needs no further checking of its form.
//
// [Load] reads the file, layers the listed scalars of [Scalars] over it (a flag
// wins over a MAYFLY_ variable, which wins over the file), fills in defaults and
// reports every [Problem] at once, each with its line, its key path and what to
// do about it. The doc comments of [Config] and of the types below it are the
// manual; docs/configuration.md is the same for people who do not read Go.
//
// Invariants:
//
//   - nothing is ignored: an unknown or repeated key, a value of the wrong type,
//     a number without its unit, an anchor or a second document is an error;
//   - a [File] exists only for a configuration without problems, and equal
//     effective configurations have equal digests;
//   - secrets are never in the file, only the names of files that hold them;
//   - paths in a loaded Config are absolute.
//
// The package opens no file but the configuration itself: what the referenced
// files ([References]) hold is checked by those who use them, who point at the
// right line with [File.Problem]. It does not watch for changes and does not
// talk to the network.
package config
