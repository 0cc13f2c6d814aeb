package guard

import (
	"slices"
	"time"

	"pg_integrity_exporter/internal/maintenance/script"
)

// Settings are the limits within which maintenance runs; the configuration's
// section guard, and flags over it.
type Settings struct {
	// LockTimeout is how long one statement waits for its locks before it steps
	// back and tries again, LockRetries how often it tries.
	LockTimeout time.Duration
	LockRetries int
	// MaxBlocked is how long another session may wait for the maintenance before
	// it is stopped.
	MaxBlocked time.Duration
	// MaxDuration bounds the whole; 0 is no bound.
	MaxDuration time.Duration
	// MaxReplicationLag is how many bytes a standby may fall behind.
	MaxReplicationLag int64
	// MinFree is how many bytes must stay free on the disk of the data directory.
	MinFree int64
	// MaxTransactionAge is how old another transaction may be at the start.
	MaxTransactionAge time.Duration
	// MaxErrorRate is how many transactions per second may be rolled back, above
	// what was usual before.
	MaxErrorRate float64
	// MaxArchiveAge is how old the newest archived WAL segment may be; 0 does not
	// ask.
	MaxArchiveAge time.Duration
	// FingerprintLimit is how many bytes of tables are read for fingerprints,
	// LockedLimit how large a table may be that is read while it is locked.
	FingerprintLimit int64
	LockedLimit      int64
	// PhysicalChecks runs the checks of corruption on what is touched, before and
	// after.
	PhysicalChecks bool
	// Unchanged are tables whose rows the maintenance must not change.
	Unchanged []script.Name
	// Expect are queries that must give true afterwards.
	Expect []string
	// ExpectRows is how many rows all statements together must change.
	ExpectRows *script.Range
	// Protect are tables whose changes are recorded while a command runs, so that
	// they can be taken back.
	Protect []script.Name
	// NoProtection records only the tables of Protect, and nothing without them.
	NoProtection bool
	// Allow are the kinds of weakening that are meant: see Allowances.
	Allow []string
}

// Default are the settings without a configuration.
func Default() Settings {
	return Settings{
		LockTimeout: 2 * time.Second, LockRetries: 15,
		MaxBlocked: 10 * time.Second, MaxReplicationLag: 1 << 30, MinFree: 512 << 20,
		MaxTransactionAge: 15 * time.Minute, MaxErrorRate: 50,
		FingerprintLimit: 4 << 30, LockedLimit: 256 << 20, PhysicalChecks: true,
	}
}

// Allowances lists what Settings.Allow may hold, with what it allows.
func Allowances() map[string]string {
	return map[string]string{
		"constraint": "constraints, columns' NOT NULL or unique indexes that are gone or not validated afterwards",
		"trigger":    "triggers, rules and event triggers that are off or gone afterwards",
		"setting":    "settings of the server, of databases and of roles that are different afterwards",
		"security":   "row level security, policies and grants that are less strict afterwards",
		"storage":    "tables that are unlogged, without autovacuum, or out of a publication afterwards",
		"sequence":   "sequences that stand lower afterwards",
		"cascade":    "tables that are emptied or dropped without being named",
		"no-where":   "DELETE without WHERE",
		"split":      "a script that is committed in several parts because it cannot be rolled back as a whole",
		"violated":   "constraints and invariants that are violated before it begins",
		"busy":       "old transactions, long lock queues and standbys that are behind when it begins",
		"damaged":    "damage that is known before a command begins",
		"unproven":   "backups that are too old or that no drill has proved lately",
		"no-undo":    "statements that nothing but a restore brings back",
	}
}

// allows says whether a kind of weakening is meant.
func (s Settings) allows(kind string) bool {
	return slices.Contains(s.Allow, kind)
}

// Invariant is a rule of the user's that must hold before and after.
type Invariant struct {
	Name string
	// Query must give no row; with Min, Max or EqualTo one value, which is
	// compared with these bounds or with the value of another query.
	Query             string
	Min, Max, EqualTo string
}
