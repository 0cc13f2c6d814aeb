package guard_test

import (
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// TestPolicies holds that what no policy permits is refused, with the reason: what
// it is, what it touches, who asks, when, and which proofs it brings.
func TestPolicies(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE SCHEMA ledger; CREATE TABLE ledger.entries (i int); CREATE TABLE notes (i int)")
	b := newBench(t, server, "postgres")
	now := time.Now().UTC()
	at := func(from, to time.Duration) guard.Policy {
		since := now.Sub(now.Truncate(24 * time.Hour))
		clock := func(d time.Duration) time.Duration { return (since + d + 48*time.Hour) % (24 * time.Hour) }
		return guard.Policy{Name: "hours", From: clock(from), To: clock(to), Location: time.UTC}
	}
	on := func(p guard.Policy, days ...time.Weekday) guard.Policy {
		p.Days = days
		return p
	}
	requires := func(proof string) guard.Policy { return guard.Policy{Name: "proofs", Requires: []string{proof}} }
	const update = "UPDATE ledger.entries SET i = 1 WHERE i = 2"
	nothing := func(*guard.Options) {}
	for name, c := range map[string]struct {
		policies []guard.Policy
		sql      string
		change   func(o *guard.Options)
		reason   string // empty is that it is permitted
	}{
		"no policy at all":              {nil, update, nothing, ""},
		"the command":                   {[]guard.Policy{{Name: "p", Commands: []string{"UPDATE"}}}, update, nothing, ""},
		"a pattern":                     {[]guard.Policy{{Name: "p", Commands: []string{"VACUUM*"}}}, "VACUUM FULL notes", nothing, ""},
		"another command":               {[]guard.Policy{{Name: "p", Commands: []string{"VACUUM*"}}}, update, nothing, "no policy permits UPDATE"},
		"one of two statements":         {[]guard.Policy{{Name: "p", Commands: []string{"UPDATE"}}}, update + "; DROP TABLE notes", nothing, "no policy permits DROP TABLE"},
		"two policies":                  {[]guard.Policy{{Name: "p", Commands: []string{"UPDATE"}}, {Name: "q", Commands: []string{"DROP TABLE"}}}, update + "; DROP TABLE notes", nothing, ""},
		"the table":                     {[]guard.Policy{{Name: "p", Relations: []string{"ledger.*"}}}, update, nothing, ""},
		"another table":                 {[]guard.Policy{{Name: "p", Relations: []string{"ledger.*"}}}, "UPDATE notes SET i = 1 WHERE i = 2", nothing, "no policy permits UPDATE"},
		"the role":                      {[]guard.Policy{{Name: "p", Roles: []string{"post*"}}}, update, nothing, ""},
		"another role":                  {[]guard.Policy{{Name: "p", Roles: []string{"ledger_admin"}}}, update, nothing, "policy p permits it to ledger_admin, not to postgres"},
		"the hours":                     {[]guard.Policy{at(-time.Hour, time.Hour)}, update, nothing, ""},
		"other hours":                   {[]guard.Policy{at(time.Hour, 2*time.Hour)}, update, nothing, "policy hours permits it only between"},
		"the day":                       {[]guard.Policy{on(guard.Policy{Name: "days", Location: time.UTC}, now.Weekday())}, update, nothing, ""},
		"another day":                   {[]guard.Policy{on(guard.Policy{Name: "days", Location: time.UTC}, (now.Weekday()+3)%7)}, update, nothing, "policy days permits it only between"},
		"requires rows, without":        {[]guard.Policy{requires("expect-rows")}, update, nothing, "policy proofs requires expect-rows"},
		"requires rows":                 {[]guard.Policy{requires("expect-rows")}, "-- expect-rows: 0\n" + update, nothing, ""},
		"requires rows for all":         {[]guard.Policy{requires("expect-rows")}, update, func(o *guard.Options) { o.Settings.ExpectRows = &script.Range{} }, ""},
		"requires invariants, without":  {[]guard.Policy{requires("invariants")}, update, nothing, "policy proofs requires invariants"},
		"requires invariants":           {[]guard.Policy{requires("invariants")}, update, func(o *guard.Options) { o.Settings.Expect = []string{"SELECT true"} }, ""},
		"requires a window, without":    {[]guard.Policy{requires("window")}, update, nothing, "policy proofs requires window"},
		"requires a window":             {[]guard.Policy{requires("window")}, update, func(o *guard.Options) { o.Window = true }, ""},
		"requires the archive, without": {[]guard.Policy{requires("archive")}, update, nothing, "policy proofs requires archive"},
		"requires a backup, without":    {[]guard.Policy{requires("backup")}, update, nothing, "policy proofs requires backup"},
		"requires a backup, not allowed": {[]guard.Policy{requires("backup")}, update, func(o *guard.Options) {
			o.Repositories, o.Settings.Allow = []recovery.Watched{{}}, []string{"unproven"}
		}, "policy proofs requires backup"},
		"requires protection, without": {[]guard.Policy{requires("protect")}, "", func(o *guard.Options) {
			o.Command, o.Settings.NoProtection = []string{"/bin/true"}, true
		}, "policy proofs requires protect"},
		"a program":       {[]guard.Policy{{Name: "p", Commands: []string{"command true"}}}, "", func(o *guard.Options) { o.Command = []string{"/bin/true"} }, ""},
		"another program": {[]guard.Policy{{Name: "p", Commands: []string{"command pg_repack"}}}, "", func(o *guard.Options) { o.Command = []string{"/bin/true"} }, "no policy permits command true"},
	} {
		o := b.options()
		if c.sql != "" {
			o = b.sql(c.sql)
		}
		o.Database, o.Invariants, o.DryRun, o.Policies = "postgres", nil, true, c.policies
		c.change(&o)
		report := guard.Run(t.Context(), o)
		permitted := report.Outcome == guard.OutcomeDone
		if permitted != (c.reason == "") || !strings.Contains(report.Summary, c.reason) {
			t.Errorf("%s: it ended %s: %s", name, report.Outcome, report.Summary)
		}
	}
}
