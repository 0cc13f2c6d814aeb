package lab_test

import (
	"fmt"
	"strings"

	"pg_integrity_exporter/internal/pgtest"
)

// columnsSQL lists the columns of the catalogues of a database, with what can be
// put there instead.
const columnsSQL = `SELECT c.relname || '|' || a.attname || '|' || t.typname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	JOIN pg_type t ON t.oid = a.atttypid
	WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND NOT c.relisshared AND c.relname NOT IN ('pg_largeobject', 'pg_statistic')
	AND t.typname IN ('oid', 'bool', 'char', 'int2', 'int4', 'name', 'regproc', 'int2vector', 'oidvector', '_oid', '_char', '_int2', 'pg_node_tree', 'text', 'xid')
	ORDER BY c.relname, a.attnum`

// rowsOf says which row of a catalogue is damaged: one of the lab's own objects.
var rowsOf = map[string]string{
	"pg_class":             "oid = 'lab.plain'::regclass",
	"pg_attribute":         "attrelid = 'lab.plain'::regclass AND attname = 'txt'",
	"pg_index":             "indexrelid = 'lab.plain_text'::regclass",
	"pg_constraint":        "conname = 'child_parent_fkey'",
	"pg_trigger":           "tgname = 'plain_note'",
	"pg_proc":              "proname = 'twice'",
	"pg_type":              "typname = 'mood'",
	"pg_inherits":          "inhrelid = 'lab.events_1'::regclass",
	"pg_depend":            "classid = 'pg_class'::regclass AND objid = 'lab.plain_text'::regclass",
	"pg_sequence":          "seqrelid = 'lab.numbers'::regclass",
	"pg_enum":              "enumlabel = 'calm'",
	"pg_collation":         "collname = 'german'",
	"pg_namespace":         "nspname = 'lab'",
	"pg_rewrite":           "rulename = 'small_rule'",
	"pg_attrdef":           "adrelid = 'lab.plain'::regclass",
	"pg_partitioned_table": "partrelid = 'lab.events'::regclass",
	"pg_policy":            "polname = 'secret_policy'",
	"pg_statistic_ext":     "stxname = 'plain_statistics'",
	"pg_extension":         "extname = 'amcheck'",
}

// catalogKindsOf damages each column of each catalogue, and loses and doubles rows.
func catalogKindsOf(server *pgtest.Server) ([]kind, error) {
	rows, err := lines(server, "lab", columnsSQL)
	if err != nil {
		return nil, err
	}
	var kinds []kind
	want := []string{"pg_catalog.*", "*", "."}
	last := ""
	for _, row := range rows {
		f := strings.Split(row, "|")
		catalogue, column, kindOf := f[0], f[1], f[2]
		which := "ctid = (SELECT max(ctid) FROM " + catalogue + ")"
		if w, ok := rowsOf[catalogue]; ok {
			which = w
		}
		add := func(what, sql string) {
			// A statement that changes no row fails, and is no damage.
			kinds = append(kinds, kind{area: "catalog", name: catalogue + what, sql: "WITH changed AS (" + sql + " RETURNING 1) SELECT 1 / count(*) FROM changed", want: want})
		}
		if catalogue != last {
			last = catalogue
			add(", row lost", "DELETE FROM "+catalogue+" WHERE "+which)
		}
		set := func(name, value string) {
			add(fmt.Sprintf(".%s %s", column, name), fmt.Sprintf("UPDATE %s SET %s = %s WHERE %s AND %s::text IS DISTINCT FROM (%s)::%s::text", catalogue, column, value, which, column, value, kindOf))
		}
		switch kindOf {
		case "oid", "regproc":
			set("of nobody", "4000000")
			set("0", "0")
		case "xid":
			set("in the future", "'4000000000'")
			set("ahead", "'100000000'")
		case "bool":
			set("negated", "NOT "+column)
		case "char":
			set("unknown", "'Z'")
		case "int2", "int4":
			set("negative", "-5")
			set("one more", column+" + 1")
		case "name":
			set("another", "'other'")
			set("empty", "''")
		case "text":
			set("another", "'other'")
		case "pg_node_tree":
			set("null", "NULL")
		case "int2vector":
			set("of no column", "'99'")
		case "oidvector":
			set("of nobody", "'4000000'")
		case "_oid":
			set("of nobody", "'{4000000}'")
			set("null", "NULL")
		case "_int2":
			set("of no column", "'{99}'")
		case "_char":
			set("unknown", "'{Z}'")
		}
	}
	for _, k := range []struct{ name, sql string }{
		{"all columns of a table lost", "DELETE FROM pg_attribute WHERE attrelid = 'lab.bare'::regclass"},
		{"one column lost", "DELETE FROM pg_attribute WHERE attrelid = 'lab.bare'::regclass AND attname = 'v'"},
		{"system columns lost", "DELETE FROM pg_attribute WHERE attrelid = 'lab.bare'::regclass AND attnum < 0"},
		{"a column of another type", "UPDATE pg_attribute SET atttypid = 'int8'::regtype WHERE attrelid = 'lab.bare'::regclass AND attname = 'v'"},
		{"NOT NULL gone", "UPDATE pg_attribute SET attnotnull = false WHERE attrelid = 'lab.plain'::regclass AND attname = 'id'"},
		{"NOT NULL set though there are NULLs", "UPDATE pg_attribute SET attnotnull = true WHERE attrelid = 'lab.plain'::regclass AND attname = 'txt'"},
		{"row of an index lost", "DELETE FROM pg_index WHERE indexrelid = 'lab.plain_text'::regclass"},
		{"rows of both of an index lost", "DELETE FROM pg_index WHERE indexrelid = 'lab.plain_text'::regclass; DELETE FROM pg_class WHERE oid = 'lab.plain_text'::regclass"},
		{"row of a table lost", "DELETE FROM pg_class WHERE oid = 'lab.bare'::regclass"},
		{"row of a TOAST table lost", "DELETE FROM pg_class WHERE oid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'lab.docs'::regclass)"},
		{"row type of a table lost", "DELETE FROM pg_type WHERE typrelid = 'lab.bare'::regclass"},
		{"triggers of a foreign key lost", "DELETE FROM pg_trigger WHERE tgrelid = 'lab.child'::regclass AND tgisinternal"},
		{"triggers of a foreign key off", "UPDATE pg_trigger SET tgenabled = 'D' WHERE tgrelid = 'lab.child'::regclass AND tgisinternal"},
		{"primary key's constraint lost", "DELETE FROM pg_constraint WHERE conname = 'parent_pkey'"},
		{"CHECK constraint lost", "DELETE FROM pg_constraint WHERE conname = 'child_id_check'"},
		{"partition without a bound", "UPDATE pg_class SET relpartbound = NULL WHERE oid = 'lab.events_1'::regclass"},
		{"partition lost", "DELETE FROM pg_inherits WHERE inhrelid = 'lab.events_1'::regclass"},
		{"partitioned table without a key", "DELETE FROM pg_partitioned_table WHERE partrelid = 'lab.events'::regclass"},
		{"sequence lost its row", "DELETE FROM pg_sequence WHERE seqrelid = 'lab.numbers'::regclass"},
		{"schema lost", "DELETE FROM pg_namespace WHERE nspname = 'lab'"},
		{"enum label lost", "DELETE FROM pg_enum WHERE enumlabel = 'calm'"},
		{"relfilenode of nobody", "UPDATE pg_class SET relfilenode = 4000000 WHERE oid = 'lab.bare'::regclass"},
		{"relfilenode of another", "UPDATE pg_class SET relfilenode = (SELECT relfilenode FROM pg_class WHERE oid = 'lab.twin'::regclass) WHERE oid = 'lab.bare'::regclass"},
		{"TOAST table of another", "UPDATE pg_class SET reltoastrelid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'lab.twin'::regclass) WHERE oid = 'lab.docs'::regclass"},
		{"no TOAST table any more", "UPDATE pg_class SET reltoastrelid = 0 WHERE oid = 'lab.docs'::regclass"},
		{"view without its rule", "DELETE FROM pg_rewrite WHERE ev_class = 'lab.view'::regclass"},
		{"unique index not unique any more", "UPDATE pg_index SET indisunique = false WHERE indexrelid = 'lab.plain_unique'::regclass"},
		{"index called unique that is not", "UPDATE pg_index SET indisunique = true WHERE indexrelid = 'lab.plain_same'::regclass"},
		{"relhasindex of a catalogue off", "UPDATE pg_class SET relhasindex = false WHERE oid = 'pg_proc'::regclass"},
		{"operator class's row lost", "DELETE FROM pg_opclass WHERE opcname = 'text_pattern_ops'"},
		{"support function lost", "DELETE FROM pg_amproc WHERE amprocfamily = (SELECT oid FROM pg_opfamily WHERE opfname = 'text_ops' AND opfmethod = 403) AND amprocnum = 1 AND amproclefttype = 'text'::regtype"},
		{"cast lost", "DELETE FROM pg_cast WHERE castsource = 'int8'::regtype AND casttarget = 'int4'::regtype"},
		{"all dependencies lost", "DELETE FROM pg_depend WHERE refobjid = 'lab.plain'::regclass"},
		{"index's TOAST", "UPDATE pg_class SET relkind = 'i' WHERE oid = 'lab.bare'::regclass"},
		{"table of a kind of its own", "UPDATE pg_class SET relkind = 'x' WHERE oid = 'lab.bare'::regclass"},
		{"table called a view", "UPDATE pg_class SET relkind = 'v' WHERE oid = 'lab.bare'::regclass"},
		{"table called unlogged", "UPDATE pg_class SET relpersistence = 'u' WHERE oid = 'lab.bare'::regclass"},
		{"table called temporary", "UPDATE pg_class SET relpersistence = 't' WHERE oid = 'lab.bare'::regclass"},
		{"row security off", "UPDATE pg_class SET relrowsecurity = false WHERE oid = 'lab.secret'::regclass"},
		{"index of the wrong table", "UPDATE pg_index SET indrelid = 'lab.bare'::regclass WHERE indexrelid = 'lab.plain_text'::regclass"},
		{"dead rows of a catalogue in the way", "UPDATE pg_class SET relfrozenxid = '4000000000' WHERE oid = 'lab.bare'::regclass"},
		{"large object without its row", "DELETE FROM pg_largeobject_metadata"},
		{"large object without data in the middle", "DELETE FROM pg_largeobject WHERE pageno = 1"},
	} {
		kinds = append(kinds, kind{area: "catalog", name: k.name, sql: k.sql, want: want})
	}
	return kinds, nil
}
