package check

import "strings"

// column is a column of a table and how its contents become bytes.
type column struct {
	Name string
	// Send is a format of the SQL expression for its bytes; %s is the column.
	Send string
}

// columnsSQL lists the columns of a table that are stored. Their bytes are what
// the binary protocol would send: no setting changes them, and they are the same
// in every version. Composite values, and arrays of types that a user made,
// would carry OIDs, which change with a restore; they are taken as text.
const columnsSQL = `SELECT a.attname::text,
	CASE WHEN y.typsend = 0 OR b.typtype = 'c' OR (y.typcategory = 'A' AND y.typelem >= 16384) THEN 'pg_catalog.textsend(%s::text)'
	ELSE quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '(%s)' END
	FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
	LEFT JOIN pg_type b ON b.oid = CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END
	LEFT JOIN pg_proc p ON p.oid = y.typsend LEFT JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v' ORDER BY a.attnum`

// textSettings make the text of every value the same whatever the server's
// settings are.
const textSettings = `SET datestyle = 'ISO, MDY'; SET intervalstyle = 'iso_8601'; SET timezone = 'UTC'; SET extra_float_digits = 3;
	SET bytea_output = 'hex'; SET xmloption = 'content'; SET lc_monetary = 'C'`

// hashOf is an SQL expression for the 64-bit hash of a row's bytes. The sum of
// the hashes of rows is a fingerprint that does not depend on their order, and
// notices a row that is changed, missing or there twice.
func hashOf(alias string, columns []column) string {
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = strings.ReplaceAll(c.Send, "%s", alias+"."+quote(c.Name))
	}
	return "hash_array_extended(ARRAY[" + strings.Join(parts, ", ") + "]::bytea[], 0)"
}

func columnNames(columns []column) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = quote(c.Name)
	}
	return names
}
