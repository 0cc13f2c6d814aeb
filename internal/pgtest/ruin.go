package pgtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/page"
)

// Ruin is a table whose files or catalogue rows are damaged, with a statement
// that runs into it and makes the server say so. None of them crashes a server.
type Ruin struct {
	// Name names the table too: it is Schema.Name in Database.
	Name string
	// Damaged is the name of the relation that is damaged, without its schema.
	Damaged string
	// Statement runs into the damage.
	Statement string
	// Once says that the server is told once: it mends what it found, or does not
	// look again.
	Once bool

	setup string
	// harm damages the relation while the server is down, live while it runs and
	// has read the table.
	harm func(r Relation) error
	live func(s *Server, r Relation) error
	// sql damages through SQL, as a superuser who may do everything.
	sql string
	// toast says that the damaged relation is the table's TOAST table.
	toast bool
	since int
}

// RuinsSchema is the schema of the tables of Ruins.
const RuinsSchema = "ruin"

const (
	plainTable = "CREATE TABLE ruin.NAME (id int PRIMARY KEY, memo text NOT NULL); INSERT INTO ruin.NAME SELECT i, repeat(md5(i::text), 3) FROM generate_series(2, 4000, 2) i; "
	toastTable = "CREATE TABLE ruin.NAME (id int PRIMARY KEY, memo text NOT NULL); ALTER TABLE ruin.NAME ALTER memo SET STORAGE EXTERNAL; INSERT INTO ruin.NAME SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 5) i; "
	byIndex    = "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT * FROM ruin.NAME WHERE "
	whole      = "SELECT sum(length(memo)) FROM ruin.NAME"
)

// xminOf makes a row look as if an other transaction had made it, with no hint of
// how that ended.
func xminOf(xid uint32, hint uint16) func(p []byte) {
	return Tuple(0, func(tuple []byte) {
		binary.LittleEndian.PutUint32(tuple, xid)
		mask := binary.LittleEndian.Uint16(tuple[20:])
		binary.LittleEndian.PutUint16(tuple[20:], mask&^0x0300|hint)
	})
}

// value changes the bytes of a row behind its first column of four bytes.
func value(change func(value []byte)) func(p []byte) {
	return Tuple(0, func(tuple []byte) { change(tuple[int(tuple[22])+4:]) })
}

func edit(block uint32, change func(p []byte)) func(r Relation) error {
	return func(r Relation) error { return r.EditValid(block, change) }
}

// Ruins lists damages that PostgreSQL notices when it reads, writes or vacuums.
func Ruins() []Ruin {
	return []Ruin{
		{Name: "checksum", Statement: whole, harm: func(r Relation) error { return r.Edit(3, Garbage) }},
		{Name: "header", Statement: whole, harm: edit(3, func(p []byte) { binary.LittleEndian.PutUint16(p[12:], 9000) })},
		{Name: "missing", Statement: whole, harm: Relation.Remove},
		{Name: "forbidden", Statement: whole, harm: func(r Relation) error { return os.Chmod(r.Path, 0) }},
		{Name: "directory", Statement: whole, harm: func(r Relation) error {
			return errors.Join(os.Remove(r.Path), os.Mkdir(r.Path, 0o700), GiveAway(r.Path))
		}},
		{Name: "device", Statement: whole, harm: func(r Relation) error { return errors.Join(os.Remove(r.Path), os.Symlink("/proc/self/mem", r.Path)) }},
		{Name: "truncated", Statement: byIndex + "id = 4000", harm: func(r Relation) error { return r.Truncate(2) }},
		{Name: "beyond_eof", Once: true, Statement: "INSERT INTO ruin.NAME SELECT i, repeat(md5(i::text), 3) FROM generate_series(5001, 5200) i", live: func(s *Server, r Relation) error {
			var n int64
			if err := s.Query(context.Background(), RuinsDatabase, "SELECT count(*) FROM ruin.beyond_eof", &n); err != nil {
				return err
			}
			return r.Truncate(r.Blocks - 2)
		}},

		{Name: "xact", Statement: whole, harm: edit(3, xminOf(3_000_000_000, 0))},
		{Name: "multixact", Statement: "SELECT * FROM ruin.NAME FOR UPDATE", harm: edit(3, Tuple(0, func(tuple []byte) {
			binary.LittleEndian.PutUint32(tuple[4:], 1_000_000)
			mask := binary.LittleEndian.Uint16(tuple[20:])
			binary.LittleEndian.PutUint16(tuple[20:], mask&^0x08c0|0x1000)
		}))},
		{Name: "frozen", Statement: "VACUUM (FREEZE) ruin.NAME", harm: edit(3, xminOf(3, 0x0100))},
		{Name: "visibility", Once: true, setup: "CHECKPOINT; VACUUM ruin.NAME; ", Statement: "VACUUM (DISABLE_PAGE_SKIPPING) ruin.NAME", harm: edit(3, func(p []byte) { p[10] &^= 4 })},

		{Name: "toast_missing", toast: true, Statement: whole, harm: edit(0, Unuse(0))},
		{Name: "toast_number", toast: true, Statement: whole, harm: edit(0, Tuple(0, func(tuple []byte) { tuple[int(tuple[22])+4] += 7 }))},
		{Name: "toast_size", toast: true, Statement: whole, harm: edit(0, Tuple(0, func(tuple []byte) { tuple[int(tuple[22])+8] -= 16 }))},
		{Name: "toast_index", toast: true, Damaged: "INDEX", Statement: whole, harm: edit(1, Zero)},
		{Name: "pglz", Statement: "SELECT sum(length(memo || '')) FROM ruin.NAME", setup: "INSERT INTO ruin.NAME SELECT i, string_agg(md5(i::text) || repeat('x', 60), '') FROM generate_series(1, 99, 2) i, generate_series(1, 60) GROUP BY i; VACUUM FULL ruin.NAME; ",
			harm: func(r Relation) error {
				return r.EditValid(r.Blocks-1, value(func(v []byte) {
					for i := 8; i < len(v) && i < 40; i++ {
						v[i] = 0xff
					}
				}))
			}},
		{Name: "pglz_length", Statement: "SELECT sum(length(memo || '')) FROM ruin.NAME", setup: "INSERT INTO ruin.NAME SELECT i, string_agg(md5(i::text) || repeat('x', 60), '') FROM generate_series(1, 99, 2) i, generate_series(1, 60) GROUP BY i; VACUUM FULL ruin.NAME; ",
			harm: func(r Relation) error {
				return r.EditValid(r.Blocks-1, value(func(v []byte) { binary.LittleEndian.PutUint32(v[4:], 0x3fffffff) }))
			}},
		{Name: "jsonb", Statement: "SELECT count(doc::text) FROM ruin.NAME", setup: "CREATE TABLE ruin.NAME (id int PRIMARY KEY, doc jsonb); INSERT INTO ruin.NAME SELECT i, jsonb_build_object('a', i) FROM generate_series(1, 100) i; ",
			harm: edit(0, value(func(v []byte) { clear(v[1:5]) }))},

		{Name: "btree_zero", Damaged: "btree_zero_pkey", Statement: byIndex + "id = 2", harm: edit(1, Zero)},
		{Name: "btree_meta", Damaged: "btree_meta_pkey", Statement: byIndex + "id = 2", harm: edit(0, func(p []byte) { clear(p[24:28]) })},
		{Name: "btree_far", Damaged: "btree_far_pkey", Statement: byIndex + "id = 2", harm: edit(1, Tuple(1, func(tuple []byte) { binary.LittleEndian.PutUint16(tuple, 3) }))},
		{Name: "btree_sibling", Damaged: "btree_sibling_pkey", Statement: "INSERT INTO ruin.NAME SELECT i, '' FROM generate_series(1, 799, 2) i", harm: edit(2, func(p []byte) {
			binary.LittleEndian.PutUint32(p[page.Size-16:], 77)
		})},
		{Name: "hash_zero", Damaged: "hash_zero_i", Statement: byIndex + "id = 2", setup: "ALTER TABLE ruin.NAME DROP CONSTRAINT NAME_pkey; CREATE INDEX NAME_i ON ruin.NAME USING hash (id); ",
			harm: func(r Relation) error {
				for block := uint32(1); block < r.Blocks; block++ {
					if err := r.EditValid(block, Zero); err != nil {
						return err
					}
				}
				return nil
			}},
		{Name: "hash_meta", Damaged: "hash_meta_i", Statement: byIndex + "id = 2", setup: "ALTER TABLE ruin.NAME DROP CONSTRAINT NAME_pkey; CREATE INDEX NAME_i ON ruin.NAME USING hash (id); ",
			harm: edit(0, func(p []byte) { clear(p[24:28]) })},
		{Name: "gist_zero", Damaged: "gist_zero_i", Statement: byIndex + "span && int4range(1, 5)", setup: "ALTER TABLE ruin.NAME ADD span int4range; UPDATE ruin.NAME SET span = int4range(id, id + 3); CREATE INDEX NAME_i ON ruin.NAME USING gist (span); ", harm: edit(0, Zero)},
		{Name: "brin_map", Damaged: "brin_map_i", Statement: "SET enable_seqscan = off; SELECT * FROM ruin.NAME WHERE id = 2", setup: "ALTER TABLE ruin.NAME DROP CONSTRAINT NAME_pkey; CREATE INDEX NAME_i ON ruin.NAME USING brin (id); ",
			harm: edit(2, Tuple(0, func(tuple []byte) { tuple[0] = 9 }))},
		{Name: "sequence", Damaged: "sequence_s", Statement: "SELECT nextval('ruin.sequence_s')", setup: "CREATE SEQUENCE ruin.NAME_s; SELECT nextval('ruin.NAME_s'); ", harm: edit(0, func(p []byte) { clear(p[page.Size-8:]) })},

		{Name: "catalog_column", Statement: "SELECT * FROM ruin.NAME", sql: "DELETE FROM pg_attribute WHERE attrelid = 'ruin.NAME'::regclass AND attname = 'memo'"},
		{Name: "catalog_type", Statement: "SELECT * FROM ruin.NAME", sql: "UPDATE pg_attribute SET atttypid = 999999 WHERE attrelid = 'ruin.NAME'::regclass AND attname = 'memo'"},
		{Name: "catalog_toast", Statement: whole, setup: toastTable, sql: "DELETE FROM pg_class WHERE oid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'ruin.NAME'::regclass)"},

		// The page cannot be written any more, and the next checkpoint fails.
		{Name: "future", Once: true, Statement: whole + "; CHECKPOINT", harm: edit(0, func(p []byte) { binary.LittleEndian.PutUint32(p, 0x7f) })},
	}
}

// RuinsDatabase is the database of Ruins.
const RuinsDatabase = "erp"

// Ruined makes the tables of Ruins on a server and lists them; Harm damages them.
func (s *Server) Ruined(t testing.TB) []Ruin {
	t.Helper()
	s.MustExec(t, "postgres", "CREATE DATABASE "+RuinsDatabase)
	s.MustExec(t, RuinsDatabase, "CREATE SCHEMA "+RuinsSchema)
	var ruins []Ruin
	for _, r := range Ruins() {
		if s.Install.Major < r.since {
			continue
		}
		switch {
		case r.toast:
			r.setup = toastTable + r.setup
		case !strings.HasPrefix(r.setup, "CREATE TABLE"):
			r.setup = plainTable + r.setup
		}
		for _, text := range []*string{&r.setup, &r.sql, &r.Statement} {
			*text = strings.ReplaceAll(*text, "NAME", r.Name)
		}
		for statement := range strings.SplitSeq(r.setup, "; ") {
			s.MustExec(t, RuinsDatabase, statement) // VACUUM refuses to be in one string with others
		}
		if r.toast {
			name := "SELECT relname::text FROM pg_class WHERE oid = (SELECT reltoastrelid FROM pg_class WHERE oid = $1::regclass)"
			index := r.Damaged == "INDEX"
			if err := s.Query(t.Context(), RuinsDatabase, name, &r.Damaged, r.table()); err != nil {
				t.Fatal(err)
			}
			if index {
				r.Damaged += "_index"
			}
		}
		if r.Damaged == "" {
			r.Damaged = r.Name
		}
		ruins = append(ruins, r)
	}
	return ruins
}

// Statements are the parts of Statement: VACUUM and CHECKPOINT want to be alone.
func (r Ruin) Statements() []string {
	if strings.HasPrefix(r.Statement, "SET ") {
		return []string{r.Statement}
	}
	return strings.Split(r.Statement, "; ")
}

func (r Ruin) table() string { return RuinsSchema + "." + r.Name }

// Harm damages the tables. The server is restarted, so that its buffers hide
// nothing.
func (s *Server) Harm(t testing.TB, ruins []Ruin) {
	t.Helper()
	files := make(map[string]Relation)
	for _, r := range ruins {
		schema := RuinsSchema
		if r.toast {
			schema = "pg_toast"
		}
		files[r.Name] = s.MustRelation(t, RuinsDatabase, schema+"."+r.Damaged)
		if r.sql != "" {
			s.MustExec(t, RuinsDatabase, r.sql)
		}
	}
	s.WhileDown(t, func() error {
		for _, r := range ruins {
			if r.harm == nil {
				continue
			}
			if err := r.harm(files[r.Name]); err != nil {
				return fmt.Errorf("damaging %s: %w", r.Name, err)
			}
		}
		return nil
	})
	for _, r := range ruins {
		if r.live == nil {
			continue
		}
		if err := r.live(s, files[r.Name]); err != nil {
			t.Fatalf("damaging %s: %v", r.Name, err)
		}
	}
}
