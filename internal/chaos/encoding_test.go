package chaos

import (
	"context"
	"log/slog"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

// mayFail are checks that say that they could not look: drift needs an accepted
// baseline; the others read names of columns as arrays, whose decoder knows
// nothing but UTF-8.
var mayFail = map[string]bool{"drift": true, "constraint": true, "index": true, "toast": true}

// TestWrongEncoding has a database of encoding SQL_ASCII, whose names and values
// are bytes that no encoding allows, and errors of it in the log: the page can be
// read, checks run, and nothing of it counts as damage.
func TestWrongEncoding(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.JSONLog())
	server.MustExec(t, "postgres", "CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
	conn, err := pgx.Connect(t.Context(), server.DSN("bytes")+"&client_encoding=SQL_ASCII")
	must(t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for _, sql := range []string{
		"CREATE SCHEMA \"s\xff\xfe\"",
		"CREATE TABLE \"s\xff\xfe\".\"t\xc3\" (\"c\xe9\" text PRIMARY KEY, CHECK (\"c\xe9\" <> '\xa0'))",
		"INSERT INTO \"s\xff\xfe\".\"t\xc3\" VALUES ('\xf0\x28\x8c')",
	} {
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		must(t, err)
	}
	s := begin(t, server, config)
	s.settled(t)
	if _, err := conn.Exec(t.Context(), "SELECT 1/0 AS \"\xff\"", pgx.QueryExecModeSimpleProtocol); err == nil {
		t.Fatal("a division by zero did not fail")
	}
	pgtest.Await(t, "the error counted", 20*time.Second, func() bool {
		n, _ := value(s.scrape(t), "pgintegrity_errors_total", "datname", "bytes")
		return n >= 1
	})
	for _, family := range s.scrape(t) {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if !utf8.ValidString(label.GetValue()) {
					t.Errorf("%s has a label %q", family.GetName(), label.GetValue())
				}
			}
		}
	}
	target, err := pg.ResolveTarget(server.DSN("postgres"), pg.NoEnvironment)
	must(t, err)
	scope := check.Scope{Heaps: check.NewHeaps()}
	for _, c := range check.All() {
		result := check.Run(t.Context(), target, "bytes", c, scope, slog.New(slog.DiscardHandler))
		if result.Outcome == check.OutcomeFailed && !mayFail[c.Name] {
			t.Errorf("%s failed: %s", c.Name, result.Reason)
		}
		for _, f := range result.Findings {
			if f.Class == check.ClassCorruption || f.Class == check.ClassDataRule {
				t.Errorf("a false alarm: %+v", f)
			}
		}
	}
}
