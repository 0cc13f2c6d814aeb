// Package guard runs maintenance so that it ends well or leaves no trace.
//
// One way through it: read the script or command (package script), look
// whether now is a good moment (preflight), write down how everything is
// (baseline), run (sql, command) while somebody watches (watch), prove that the
// result is right (verify), and then commit, or take it all back (undo). Every
// step is in a journal on disk before it happens, so that after the death of
// the guard, of the job or of the server, resume knows what is left to do.
//
// Exit codes are those of the contract: 0 done and verified, 1 failed and
// rolled back, 2 refused beforehand, 3 failed and not rolled back.
package guard
