// Package stack turns a configuration into the running service. It is the one
// place where backends are chosen and objects are connected; mayfly and
// mayfly-dev both start here.
//
// [Check] answers what can be known without opening anything; [Open] opens what
// the service owns (journal, log, listeners) and [Stack.Run] serves until its
// context ends. What the one checks the other uses: both read the configuration
// through the same plan.
package stack
