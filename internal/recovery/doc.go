// Package recovery knows whether a cluster could be brought back, and how far:
// it reads repositories of backups and of archived WAL as they lie on disk
// (pg_basebackup, pgBackRest, Barman, WAL-G, pg_dump), judges whether they are
// complete, verifies their contents, and keeps the history of restore drills.
// It only reads, and it starts no programs; what a drill starts is in the
// package drill.
package recovery
