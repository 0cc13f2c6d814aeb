package cluster

import (
	"fmt"
	"io/fs"
)

// ModeProblem says why a server does not start in a data directory of a mode; "" is
// that it does.
func ModeProblem(mode fs.FileMode) string {
	if mode.Perm()&0o027 == 0 {
		return ""
	}
	return fmt.Sprintf("the data directory has the mode %04o; the server wants 0700 or 0750", mode.Perm())
}

// ModeAction is what to do then.
const ModeAction = "chmod 0700 the data directory (0750 if the cluster was made with group access), and find out who changed it."

// Directory is a directory that every cluster has.
type Directory struct {
	Name string
	// Optional says that the server starts without it.
	Optional bool
	// Empty says that nothing in it outlives a shutdown.
	Empty bool
}

// Directories are those of a cluster of PostgreSQL 13 to 18.
var Directories = []Directory{
	{Name: "base"}, {Name: "base/1", Optional: true}, {Name: "global"}, {Name: "pg_commit_ts"}, {Name: "pg_dynshmem", Optional: true, Empty: true},
	{Name: "pg_logical", Optional: true}, {Name: "pg_logical/mappings", Optional: true}, {Name: "pg_logical/snapshots", Optional: true},
	{Name: "pg_multixact"}, {Name: "pg_multixact/members"}, {Name: "pg_multixact/offsets"},
	{Name: "pg_notify", Empty: true}, {Name: "pg_replslot"}, {Name: "pg_serial", Optional: true, Empty: true}, {Name: "pg_snapshots", Optional: true, Empty: true},
	{Name: "pg_stat", Optional: true, Empty: true}, {Name: "pg_stat_tmp", Optional: true, Empty: true}, {Name: "pg_subtrans", Optional: true, Empty: true},
	{Name: "pg_tblspc", Optional: true}, {Name: "pg_twophase"}, {Name: "pg_wal"}, {Name: "pg_xact"},
}
