// Package state keeps what must survive a restart: results and findings of
// checks, the position in the server's log with the counters that belong to
// it, and counters that outlive the server's own.
//
// A change is written to one embedded database in one transaction, and only
// then published as a new immutable [Snapshot], so that what Prometheus has
// seen never goes back after a kill. When the disk refuses the write, the
// change is published all the same, pgintegrity_state_up falls to 0, and the
// whole state is written as soon as the disk takes it.
package state
