package lab_test

import "strings"

// units are the statements that make what one kind of damage needs, in a schema of
// its own: a table, with the one index that is damaged. Index units are made by
// unitOf.
var units = map[string]string{
	"plain": plainTable + `
		CREATE INDEX plain_k ON plain (k);`,
	"bare": `CREATE TABLE bare (id int, v text);
		INSERT INTO bare SELECT g, md5(g::text) FROM generate_series(1, 1000) g;`,
	"busy": busyTable,
	"parent": `CREATE TABLE parent (id int PRIMARY KEY, name text UNIQUE);
		INSERT INTO parent SELECT g, 'p' || g FROM generate_series(1, 300) g;`,
	"docs": `CREATE TABLE docs (id int PRIMARY KEY, external text, packed text, main text) WITH (autovacuum_enabled = off);
		ALTER TABLE docs ALTER external SET STORAGE EXTERNAL;
		INSERT INTO docs SELECT g, repeat(md5(g::text), 200), (SELECT string_agg(md5((g * 1000 + i)::text) || 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '') FROM generate_series(1, 150) i), repeat('main' || g, 400) FROM generate_series(1, 40) g;`,
	"small": `CREATE TABLE small (id int PRIMARY KEY, v text);
		INSERT INTO small SELECT g, 'v' || g FROM generate_series(1, 20) g;`,
	"twin": twinTable + `
		CREATE INDEX twin_a ON twin (id);`,
	"pair": twinTable + `
		CREATE INDEX twin_a ON twin (id);
		CREATE INDEX twin_b ON twin (id DESC);
		CREATE TABLE bare (id int, v text);
		INSERT INTO bare SELECT g, md5((g + 3)::text) FROM generate_series(1, 1000) g;`,
	"unlogged": `CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, v text);
		INSERT INTO unlogged SELECT g, 'u' || g FROM generate_series(1, 500) g;`,
	"numbers": `CREATE SEQUENCE numbers;
		SELECT nextval('numbers') FROM generate_series(1, 50);`,
	"mat": twinTable + `
		CREATE MATERIALIZED VIEW mat AS SELECT id, v FROM twin;
		CREATE UNIQUE INDEX mat_id ON mat (id);`,
	"events_1": `CREATE TABLE events (id int NOT NULL, at date NOT NULL, what text) PARTITION BY RANGE (at);
		CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-03-01');
		CREATE INDEX events_id ON events (id);
		INSERT INTO events SELECT g, '2026-01-01'::date + g % 50, 'event ' || g FROM generate_series(1, 1000) g;`,
}

const (
	plainTable = `CREATE TABLE plain (id int PRIMARY KEY, k int NOT NULL, b bool, n numeric(12, 2), ts timestamptz, d date, txt text, arr int[], j jsonb,
		u uuid, ip inet, r int4range, ch char(5), f float8, by bytea, m lab.mood, p lab.positive, v varbit, tm time, iv interval, pt point, js json, big bigint, small smallint,
		gen int GENERATED ALWAYS AS (k * 2) STORED, CONSTRAINT plain_k_check CHECK (k >= 0));
		INSERT INTO plain SELECT g, g * 3, g % 2 = 0, g * 1.25, '2026-01-01'::timestamptz + g * interval '1 min', '2026-01-01'::date + g % 1000,
		CASE WHEN g % 5 = 0 THEN NULL ELSE md5(g::text) END, ARRAY[g % 50, g], jsonb_build_object('a', g, 'b', ARRAY[g, 2]), md5(g::text)::uuid, ('10.0.0.' || g % 250)::inet,
		int4range(g, g + 10), 'x' || g % 100, g * 0.5, decode(md5(g::text), 'hex'), (ARRAY['sad', 'calm', 'glad'])[1 + g % 3]::lab.mood, g, B'1011', '12:00'::time + g * interval '1 s',
		g * interval '1 min', point(g % 97, g), json_build_object('x', g), g * 1000000000::bigint, g % 1000 FROM generate_series(1, 500) g;`
	busyTable = `CREATE TABLE busy (id int, v text) WITH (autovacuum_enabled = off, fillfactor = 60);
		INSERT INTO busy SELECT g, 'v' || g FROM generate_series(1, 1200) g;
		CREATE INDEX busy_id ON busy (id);
		UPDATE busy SET v = v || 'x' WHERE id % 7 = 0;
		UPDATE busy SET v = v || 'y' WHERE id % 14 = 0;
		DELETE FROM busy WHERE id % 11 = 0;
		BEGIN; INSERT INTO busy SELECT g, 'aborted' FROM generate_series(3000, 3050) g; UPDATE busy SET v = 'aborted' WHERE id % 13 = 0; ROLLBACK;
		UPDATE busy SET id = id + 100000 WHERE id % 17 = 0;
		BEGIN; SELECT count(*) FROM (SELECT * FROM busy WHERE id % 19 = 0 FOR KEY SHARE) x; SAVEPOINT s; UPDATE busy SET v = 'multi' WHERE id % 19 = 0; RELEASE s; COMMIT;`
	twinTable = `CREATE TABLE twin (id int, v text);
		INSERT INTO twin SELECT g, md5((g + 1)::text) FROM generate_series(1, 1000) g;`
	indexedTable = `CREATE TABLE t (id int NOT NULL, k int NOT NULL, b bool, n numeric(12, 2), ts timestamptz, d date, txt text, j jsonb, r int4range, pt point, big bigint, small smallint, tags int[]);
		INSERT INTO t SELECT g, g * 3, g % 2 = 0, g * 1.25, '2026-01-01'::timestamptz + g * interval '1 min', '2026-01-01'::date + g % 1000,
		CASE WHEN g % 5 = 0 THEN NULL ELSE md5(g::text) END, jsonb_build_object('a', g % 100), int4range(g, g + 10), point(g % 97, g), g * 1000000000::bigint, g % 100, ARRAY[g % 3, g] FROM generate_series(1, 1500) g;`
	keysTable = `CREATE TABLE keys (id int NOT NULL, tags int[]) WITH (autovacuum_enabled = off);
		INSERT INTO keys SELECT g, ARRAY[1, g % 3, g] FROM generate_series(1, 9000) g;`
)

var indexUnits = map[string]string{
	"plain_unique":     "UNIQUE INDEX plain_unique ON t (k)",
	"plain_text":       "INDEX plain_text ON t (txt)",
	"plain_partial":    "INDEX plain_partial ON t (d) WHERE b",
	"plain_expression": "INDEX plain_expression ON t (lab.twice(k))",
	"plain_include":    "INDEX plain_include ON t (big) INCLUDE (small)",
	"plain_same":       "INDEX plain_same ON t (small)",
	"plain_desc":       "INDEX plain_desc ON t (n DESC NULLS LAST, ts)",
	"plain_hash":       "INDEX plain_hash ON t USING hash (txt)",
	"plain_gist":       "INDEX plain_gist ON t USING gist (r)",
	"plain_point":      "INDEX plain_point ON t USING gist (pt)",
	"plain_spgist":     "INDEX plain_spgist ON t USING spgist (txt)",
	"plain_quad":       "INDEX plain_quad ON t USING spgist (pt)",
	"plain_gin":        "INDEX plain_gin ON t USING gin (j)",
	"plain_brin":       "INDEX plain_brin ON t USING brin (id) WITH (pages_per_range = 4)",
	"plain_inclusion":  "INDEX plain_inclusion ON t USING brin (r) WITH (pages_per_range = 4)",
}

// unitOf gives the statements for a relation that is damaged.
func unitOf(relation string) string {
	relation = strings.TrimPrefix(relation, "lab.")
	relation, _, _ = strings.Cut(relation, " ")
	if text, ok := units[relation]; ok {
		return text
	}
	if text, ok := indexUnits[relation]; ok {
		return indexedTable + "\nCREATE " + text + ";"
	}
	switch relation {
	case "keys_hash":
		return keysTable + "\nCREATE INDEX keys_hash ON keys USING hash (id);"
	case "keys_gin":
		return keysTable + "\nCREATE INDEX keys_gin ON keys USING gin (tags);\nINSERT INTO keys SELECT g, ARRAY[1, g] FROM generate_series(15001, 15050) g;"
	case "small_pkey", "twin_a":
		return units[map[string]string{"small_pkey": "small", "twin_a": "twin"}[relation]]
	}
	panic("no unit " + relation)
}
