// Package drill proves backups: it restores one into a scratch directory,
// starts an isolated server of the right version there, recovers, checks what
// came back, measures how long that took, and removes everything.
//
// It is one of the few places that start programs. It touches nothing that it
// did not make: its directories carry a marker file that it holds locked, and
// only a marked directory whose owner is gone is ever removed.
package drill
