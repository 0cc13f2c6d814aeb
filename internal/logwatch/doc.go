// Package logwatch watches the log of one target: it finds the files through
// the server's own settings, keeps counts and position in the state, turns
// events into findings about relations, and asks the scheduler to check those
// relations at once.
package logwatch
