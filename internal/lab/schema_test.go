package lab_test

// schema is what is damaged: every kind of column, of storage, of row version and
// of index. Statements end with a semicolon and a line break.
const schema = `CREATE EXTENSION amcheck;
CREATE EXTENSION pg_visibility;
CREATE SCHEMA lab;
CREATE TYPE lab.mood AS ENUM ('sad', 'calm', 'glad');
CREATE DOMAIN lab.positive AS int CHECK (value > 0);
CREATE COLLATION lab.german FROM "C";
CREATE FUNCTION lab.twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2';
CREATE FUNCTION lab.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE lab.plain (id int PRIMARY KEY, k int NOT NULL, b bool, n numeric(12, 2), ts timestamptz, d date, txt text, arr int[], j jsonb,
	u uuid, ip inet, r int4range, ch char(5), f float8, by bytea, m lab.mood, p lab.positive, v varbit, tm time, iv interval, pt point, js json, big bigint, small smallint,
	gen int GENERATED ALWAYS AS (k * 2) STORED, CONSTRAINT plain_k_check CHECK (k >= 0));
INSERT INTO lab.plain SELECT g, g * 3, g % 2 = 0, g * 1.25, '2026-01-01'::timestamptz + g * interval '1 min', '2026-01-01'::date + g % 1000,
	CASE WHEN g % 5 = 0 THEN NULL ELSE md5(g::text) END, ARRAY[g % 50, g], jsonb_build_object('a', g, 'b', ARRAY[g, 2]), md5(g::text)::uuid, ('10.0.0.' || g % 250)::inet,
	int4range(g, g + 10), 'x' || g % 100, g * 0.5, decode(md5(g::text), 'hex'), (ARRAY['sad', 'calm', 'glad'])[1 + g % 3]::lab.mood, g, B'1011', '12:00'::time + g * interval '1 s',
	g * interval '1 min', point(g % 97, g), json_build_object('x', g), g * 1000000000::bigint, g % 1000 FROM generate_series(1, 3000) g;
CREATE UNIQUE INDEX plain_unique ON lab.plain (k);
CREATE INDEX plain_text ON lab.plain (txt);
CREATE INDEX plain_partial ON lab.plain (d) WHERE b;
CREATE INDEX plain_expression ON lab.plain (lab.twice(k));
CREATE INDEX plain_include ON lab.plain (big) INCLUDE (small);
CREATE INDEX plain_same ON lab.plain (small);
CREATE INDEX plain_desc ON lab.plain (n DESC NULLS LAST, ts);
CREATE INDEX plain_hash ON lab.plain USING hash (txt);
CREATE INDEX plain_gist ON lab.plain USING gist (r);
CREATE INDEX plain_point ON lab.plain USING gist (pt);
CREATE INDEX plain_spgist ON lab.plain USING spgist (txt);
CREATE INDEX plain_quad ON lab.plain USING spgist (pt);
CREATE INDEX plain_gin ON lab.plain USING gin (j);
CREATE INDEX plain_brin ON lab.plain USING brin (id) WITH (pages_per_range = 4);
CREATE INDEX plain_inclusion ON lab.plain USING brin (r) WITH (pages_per_range = 4);
CREATE STATISTICS lab.plain_statistics ON k, small FROM lab.plain;
CREATE TRIGGER plain_note BEFORE INSERT ON lab.plain FOR EACH ROW EXECUTE FUNCTION lab.note();
CREATE TABLE lab.keys (id int NOT NULL, tags int[]) WITH (autovacuum_enabled = off);
INSERT INTO lab.keys SELECT g, ARRAY[1, g % 3, g] FROM generate_series(1, 15000) g;
CREATE INDEX keys_btree ON lab.keys (id);
CREATE INDEX keys_hash ON lab.keys USING hash (id);
CREATE INDEX keys_gin ON lab.keys USING gin (tags);
INSERT INTO lab.keys SELECT g, ARRAY[1, g] FROM generate_series(15001, 15100) g;
CREATE TABLE lab.busy (id int, v text) WITH (autovacuum_enabled = off, fillfactor = 60);
INSERT INTO lab.busy SELECT g, 'v' || g FROM generate_series(1, 2000) g;
CREATE INDEX busy_id ON lab.busy (id);
UPDATE lab.busy SET v = v || 'x' WHERE id % 7 = 0;
UPDATE lab.busy SET v = v || 'y' WHERE id % 14 = 0;
DELETE FROM lab.busy WHERE id % 11 = 0;
BEGIN; INSERT INTO lab.busy SELECT g, 'aborted' FROM generate_series(3000, 3050) g; UPDATE lab.busy SET v = 'aborted' WHERE id % 13 = 0; ROLLBACK;
UPDATE lab.busy SET id = id + 100000 WHERE id % 17 = 0;
BEGIN; SELECT count(*) FROM (SELECT * FROM lab.busy WHERE id % 19 = 0 FOR KEY SHARE) x; SAVEPOINT s; UPDATE lab.busy SET v = 'multi' WHERE id % 19 = 0; RELEASE s; COMMIT;
CREATE TABLE lab.docs (id int PRIMARY KEY, external text, packed text, main text) WITH (autovacuum_enabled = off);
ALTER TABLE lab.docs ALTER external SET STORAGE EXTERNAL;
INSERT INTO lab.docs SELECT g, repeat(md5(g::text), 200), (SELECT string_agg(md5((g * 1000 + i)::text) || 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '') FROM generate_series(1, 150) i), repeat('main' || g, 400) FROM generate_series(1, 80) g;
CREATE TABLE lab.events (id int NOT NULL, at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE lab.events_1 PARTITION OF lab.events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE lab.events_2 PARTITION OF lab.events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE INDEX events_id ON lab.events (id);
INSERT INTO lab.events SELECT g, '2026-01-01'::date + g % 50, 'event ' || g FROM generate_series(1, 1000) g;
CREATE TABLE lab.parent (id int PRIMARY KEY, name text UNIQUE);
CREATE TABLE lab.child (id int PRIMARY KEY, parent int NOT NULL REFERENCES lab.parent, CONSTRAINT child_id_check CHECK (id > 0));
INSERT INTO lab.parent SELECT g, 'p' || g FROM generate_series(1, 300) g;
INSERT INTO lab.child SELECT g, 1 + g % 300 FROM generate_series(1, 900) g;
CREATE TABLE lab.small (id int PRIMARY KEY, v text);
INSERT INTO lab.small SELECT g, 'v' || g FROM generate_series(1, 20) g;
CREATE TABLE lab.bare (id int, v text);
INSERT INTO lab.bare SELECT g, md5(g::text) FROM generate_series(1, 2000) g;
CREATE TABLE lab.twin (id int, v text);
INSERT INTO lab.twin SELECT g, md5((g + 1)::text) FROM generate_series(1, 2000) g;
CREATE INDEX twin_a ON lab.twin (id);
CREATE INDEX twin_b ON lab.twin (id DESC);
CREATE UNLOGGED TABLE lab.unlogged (id int PRIMARY KEY, v text);
INSERT INTO lab.unlogged SELECT g, 'u' || g FROM generate_series(1, 500) g;
CREATE SEQUENCE lab.numbers;
SELECT nextval('lab.numbers') FROM generate_series(1, 50);
CREATE VIEW lab.view AS SELECT id, txt FROM lab.plain WHERE b;
CREATE MATERIALIZED VIEW lab.mat AS SELECT id, k FROM lab.plain;
CREATE UNIQUE INDEX mat_id ON lab.mat (id);
CREATE RULE small_rule AS ON DELETE TO lab.small DO INSTEAD NOTHING;
CREATE TABLE lab.secret (id int, owner text);
ALTER TABLE lab.secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY secret_policy ON lab.secret USING (owner = current_user);
CREATE TABLE lab.exclusive (r int4range, EXCLUDE USING gist (r WITH &&));
INSERT INTO lab.exclusive SELECT int4range(g * 10, g * 10 + 9) FROM generate_series(1, 300) g;
SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')) FROM generate_series(1, 3);
COMMENT ON TABLE lab.plain IS 'a comment';
ALTER TABLE lab.twin ADD dropped int;
ALTER TABLE lab.twin DROP dropped;
ALTER TABLE lab.twin ADD late int DEFAULT 7;
VACUUM (FREEZE) lab.parent;
VACUUM ANALYZE lab.plain;
VACUUM ANALYZE lab.docs;
VACUUM ANALYZE lab.twin;
VACUUM ANALYZE lab.bare;
VACUUM ANALYZE lab.keys;
ANALYZE;
VACUUM pg_class;
VACUUM pg_attribute;
VACUUM pg_proc;
INSERT INTO lab.keys SELECT g, ARRAY[1, g] FROM generate_series(15101, 15200) g;
UPDATE lab.busy SET v = v || 'z' WHERE id % 23 = 0;
DELETE FROM lab.busy WHERE id % 29 = 0;
CHECKPOINT;
`
