package check_test

import (
	"errors"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// unusual is what a healthy server may have and few have: each of it was called damage
// or stopped a check once.
const unusual = `
CREATE TABLE prices (id int PRIMARY KEY, price numeric, terms json, text text);
INSERT INTO prices VALUES (1, NULL, NULL, ''), (2, 12.50, '{"a": null}', NULL), (3, 'NaN', '""', 'x');

CREATE TABLE tagged (numbers int[], names text[]);
INSERT INTO tagged SELECT CASE g % 5 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY[NULL, g] ELSE ARRAY[g, g + 1] END,
	CASE g % 7 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY[NULL, md5(g::text)] ELSE ARRAY[md5(g::text)] END FROM generate_series(1, 500) g;
CREATE INDEX ON tagged USING gin (numbers, names);

CREATE TABLE shapes (circle circle, box box, point point, polygon polygon);
INSERT INTO shapes SELECT circle(point(g, g), g), box(point(g, g), point(g + 1, g + 1)), point(g, g), polygon(box(point(g, g), point(g + 1, g + 1))) FROM generate_series(1, 20) g;
INSERT INTO shapes VALUES ('<(3,5),NaN>', '(NaN,1),(2,3)', '(NaN,2)', '((1,2),(3,4),(NaN,6))');
CREATE INDEX ON shapes USING gist (circle);
CREATE INDEX ON shapes USING gist (box);
CREATE INDEX ON shapes USING gist (point);
CREATE INDEX ON shapes USING gist (polygon);
CREATE INDEX ON shapes USING spgist (box);
CREATE INDEX ON shapes USING spgist (polygon);
CREATE TABLE ranges AS SELECT box FROM shapes;
CREATE INDEX ON ranges USING brin (box);

CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, numbers int[], circle circle, v text);
INSERT INTO unlogged SELECT g, ARRAY[g], circle(point(g, g), g), g FROM generate_series(1, 100) g;
CREATE INDEX ON unlogged USING gin (numbers);
CREATE INDEX ON unlogged USING gist (circle);
CREATE INDEX ON unlogged USING spgist (v);
CREATE INDEX ON unlogged USING brin (id);
CREATE INDEX ON unlogged USING hash (v);

CREATE SUBSCRIPTION described CONNECTION 'dbname=elsewhere' PUBLICATION p WITH (connect = false);
COMMENT ON SUBSCRIPTION described IS 'which DROP SUBSCRIPTION leaves behind';
ALTER SUBSCRIPTION described SET (slot_name = NONE);
DROP SUBSCRIPTION described;

CREATE FUNCTION is_number(int, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2';
CREATE OPERATOR =# (LEFTARG = int, RIGHTARG = text, FUNCTION = is_number);
ALTER OPERATOR FAMILY integer_ops USING btree ADD OPERATOR 3 =# (int, text);
CREATE OPERATOR |@| (RIGHTARG = anyarray, FUNCTION = unnest);

CREATE ROLE auditor;
CREATE TABLE owned (i int);
ALTER TABLE owned OWNER TO pg_monitor;
ALTER DATABASE postgres SET timezone_abbreviations = 'Default';
`

// TestUnusual holds that what is unusual is no damage.
func TestUnusual(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("wal_level", "logical"))
		server.MustExec(t, "postgres", unusual)
		server.MustExec(t, "postgres", "CREATE EXTENSION amcheck")
		server.MustExec(t, "postgres", "VACUUM ANALYZE")
		server.MustExec(t, "postgres", "CHECKPOINT")
		for _, c := range sweep(t, server, check.Options{Databases: []string{"postgres"}, Checks: named(t, "setting")}).Checks {
			if c.Reason != "" {
				t.Errorf("%s: %s %s", c.Check, c.Outcome, c.Reason)
			}
		}
		silent := func(when string, deep bool) {
			t.Helper()
			document := sweep(t, server, check.Options{Databases: []string{"postgres"}, Deep: deep})
			for _, f := range document.Findings {
				if f.Severity != check.SeverityInfo { // of an unlogged table
					t.Errorf("%s: %s tells of %s: %s", when, f.Check, f.Object(), f.Message)
				}
			}
			for _, c := range document.Checks {
				if c.Outcome != check.OutcomeOK && c.Check != "leftover" && (c.Check != "heap" || major >= 14) {
					t.Errorf("%s: %s: %s %s", when, c.Check, c.Outcome, c.Reason)
				}
			}
		}
		silent("as made", false)
		silent("deep", true)
		if err := errors.Join(server.Stop(pgtest.Immediate), server.StartAgain(t.Context())); err != nil {
			t.Fatal(err)
		}
		server.MustExec(t, "postgres", "CHECKPOINT")
		silent("after a crash", true)
	})
}
