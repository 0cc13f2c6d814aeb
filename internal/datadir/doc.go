// Package datadir reads the files of a server's data directory: directly when
// they are on this machine, through the server when it allows that. It never
// writes.
package datadir
