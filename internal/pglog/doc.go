// Package pglog reads the server's log: it follows the files across rotation,
// knows the formats jsonlog (15+) and csvlog, counts messages by SQLSTATE, and
// recognises the events that damage leaves behind.
//
// A [Follower] hands batches of counts and events to a function that keeps
// them together with the [Position] behind them; what that function has
// accepted is never read again, and what it has not is read again after a
// restart. A message is decided by its SQLSTATE; words are looked at only where
// PostgreSQL gives no state of its own.
package pglog
