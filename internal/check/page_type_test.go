package check_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// typesOf are types for the values below.
const typesOf = `CREATE TYPE mood AS ENUM ('sad', 'calm', 'glad'); CREATE DOMAIN good_mood AS mood CHECK (value <> 'sad');
	CREATE DOMAIN days AS date[]; CREATE TYPE pair AS (a int, b text); CREATE TYPE spans AS RANGE (subtype = text);
	CREATE DOMAIN odd AS int CHECK (value % 2 = 1); CREATE EXTENSION citext; CREATE EXTENSION cube; CREATE EXTENSION hstore; CREATE EXTENSION ltree;
	CREATE DOMAIN tags AS hstore; CREATE DOMAIN price AS numeric(7, 2); CREATE DOMAIN low_price AS price CHECK (value < 1000)`

// possible are expressions of many values (g counts from 1) and their types.
var possible = map[string][]string{
	"bool":                      {"g % 2 = 0"},
	"name":                      {"'n' || g", "repeat('n', 63)", "repeat('ä', 40)", "''"},
	"int2vector":                {"'1 2 3'", "''"},
	"oidvector":                 {"'1 2 3'"},
	"text":                      {"chr(200 + g)", "''"},
	"json":                      {`'{"a": [1, -2.5e-3, null, "\u00e4\\"]}'`, "'1'", `' [ ] '`, `to_json(repeat('x', g))`, `'{"a": 1, "a": 2}'`},
	"jsonb":                     {`'{"a": [1, -2.5e-3, null, "\u00e4\\", true, {}, []], "bb": {"c": {"d": [[1], [2, "x"]]}}}'`, "'1'", `'"x"'`, "'null'", "'[]'", "'{}'", "to_jsonb(ARRAY(SELECT i * 1.5 FROM generate_series(1, g) i))", "jsonb_build_object(g::text, g, 'k', g || 'v', 'long ' || g, ARRAY[g, 2])", "jsonb_object_agg_of(g)"},
	"jsonpath":                  {"'$.a[*] ? (@ > 1)'", "'strict $'"},
	"numeric":                   {"g", "0", "-g / 7.0", "'NaN'", "1e100 * g", "g * 1e-50", "0.00", "10000 * g", "0.0001 * g", "round(g / 3.0, 6)", "(g * 1000)::numeric(20, 3)", "power(g::numeric, 9.5)", "numeric '123.4500'", "g % 10 * 1.000"},
	"date":                      {"'epoch'::date + g", "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'"},
	"time":                      {"'00:00'::time + g * interval '1 s'", "'24:00'"},
	"timetz":                    {"'24:00+15:59'", "now()::timetz", "timetz '10:00' AT TIME ZONE interval '100 hours'"},
	"timestamp":                 {"'epoch'::timestamp + g * interval '1 day'", "'infinity'", "'-infinity'", "'294276-12-31 23:59:59.999999'", "'4713-01-01 BC'"},
	"timestamptz":               {"now()"},
	"interval":                  {"g * interval '1 month 2 days 3 s'"},
	"inet":                      {"('10.0.0.' || g % 250)::inet", "'::1/64'", "'10.1.2.3/8'"},
	"cidr":                      {"'10.0.0.0/8'", "'fe80::/10'", "'0.0.0.0/0'", "set_masklen('10.128.0.0/9'::cidr, 8)"},
	"macaddr":                   {"'08:00:2b:01:02:03'"},
	"bit(11)":                   {"B'10110111011'"},
	"varbit":                    {"B'1011'", "B''", "B'101101110111111100001'", "(g::bit(31))::varbit << 3"},
	"box":                       {"box(point(g, 1), point(3, 5))", "'(NaN,1),(2,3)'", "box '((1,2),(3,4))' * point(0, 1)"},
	"circle":                    {"circle(point(g, 1), g)", "'<(1,2),0>'"},
	"line":                      {"line(point(1, g), point(2, 5))", "'{0,1,2}'", "line(point(1, 1), point(1, 2))"},
	"lseg":                      {"'[(1,2),(3,4)]'"},
	"path":                      {"'[(1,2),(3,4),(5,6)]'", "'((1,2),(3,4))'", "path '[(1,2)]' + path '[(3,4)]'"},
	"polygon":                   {"polygon(7, circle(point(g, 2), 5))", "'((1,2),(3,4),(NaN,6))'", "'((1,2))'", "polygon(box(point(1, 2), point(3, g)))"},
	"tsvector":                  {"to_tsvector('simple', 'a fat cat ' || g || ' sat on a mat and a cat')", "strip(to_tsvector('simple', 'b a c'))", "''", "setweight(to_tsvector('simple', 'x y'), 'A') || to_tsvector('simple', 'b x ä')"},
	"tsquery":                   {"'a & b | !c'", "''", "'a'", "!!to_tsquery('simple', 'fat:*AB & (rat <-> cat | !dog:C) & ' || g)", "phraseto_tsquery('english', 'the a fat cat sat on a mat')", "to_tsquery('english', 'the')", "ts_rewrite('a & b'::tsquery, 'a'::tsquery, 'c | !d'::tsquery)", "plainto_tsquery('simple', repeat('x' || g || ' ', g))", "websearch_to_tsquery('english', '\"a b\" -c or ä')", "tsquery_phrase('a', '!b', 10)"},
	"int4range":                 {"int4range(g, g + 10)", "'empty'", "'(,5]'", "'[3,)'", "'(,)'", "int4range(g, g, '[]')"},
	"int8range":                 {"int8range(g, g + 1000000)"},
	"numrange":                  {"numrange(-g * 1.25, -g)", "numrange(-1e30, 0)", "numrange(g, 'NaN')", "numrange(12.3456, 12.3456789)", "numrange(-0.5, g)", "numrange(10000, 100000.5)", "numrange(0.0001, 0.001)", "numrange(g, g * 1.5)", "'[1.5,1.5]'", "'(,1]'"},
	"daterange":                 {"daterange('2026-01-01', '2026-01-01'::date + g)", "'[2026-01-01,infinity]'", "'(-infinity,2026-01-01)'"},
	"tstzrange":                 {"tstzrange(now(), NULL)", "tsrange(now()::timestamp, now()::timestamp, '[]')::text::tstzrange"},
	"spans":                     {"spans('a', 'b' || g)", "spans(repeat('x', 200), repeat('y', 300))", "'empty'"},
	"mood":                      {"'glad'", "(ARRAY['sad', 'calm'])[1 + g % 2]"},
	"good_mood":                 {"'glad'"},
	"odd":                       {"2 * g + 1"},
	"pair":                      {"ROW(g, 'x' || g)", "ROW(NULL, 'x')", "ROW(NULL, NULL)"},
	"days":                      {"ARRAY['epoch'::date, 'infinity']"},
	"good_mood[]":               {"ARRAY['calm', NULL, 'glad']"},
	"pair[]":                    {"ARRAY[ROW(1, 'a'), ROW(g, repeat('b', g))]::pair[]"},
	"int[]":                     {"ARRAY[g, 2]", "'{}'", "'[5:6]={1,2}'", "ARRAY[[1, NULL], [3, g]]", "array_fill(g, ARRAY[2, 3, 4])", "array_remove(ARRAY[g], g)", "(ARRAY[1, 2])[3:4]", "'[2147483645:2147483646]={1,2}'", "'[-2147483648:-2147483647]={1,2}'"},
	"text[]":                    {"ARRAY['a', NULL, '', repeat('x', g)]", "string_to_array(repeat('a,', g), ',')", "(ARRAY['a', 'bb', 'ccc', 'dddd'])[2:3]", "array_remove(ARRAY['a', 'b', NULL], 'a')"},
	"float8[]":                  {"ARRAY[g, 2.5]", "'{}'"},
	"bool[]":                    {"ARRAY[true, false, true]"},
	"numeric[]":                 {"ARRAY[g, 2.5, 'NaN']"},
	"jsonb[]":                   {"ARRAY['{\"a\": 1}'::jsonb, '2']"},
	"int4range[]":               {"ARRAY[int4range(1, g + 1), 'empty']"},
	"aclitem[]":                 {"acldefault('r', 10)"},
	"\"char\"[]":                {"ARRAY['a', 'b']::\"char\"[]"},
	"name[]":                    {"ARRAY['a', repeat('ä', 30)]::name[]"},
	"numeric(7, 2)":             {"g * 1.234", "'NaN'", "0", "-99999.99", "0.01", "1e4 + g"},
	"numeric(3)":                {"g", "-999.4", "0.4"},
	"numeric(40, 20)":           {"g * 1.000000000000000000001", "99999999999999999999"},
	"numeric(2, 2)":             {"0.99", "-0.01", "0"},
	"numeric(5, 2)[]":           {"ARRAY[g, NULL, 1.239, 999.99]"},
	"price":                     {"g * 1.239"},
	"low_price":                 {"g * 1.239"},
	"bit(3)[]":                  {"ARRAY[B'101', B'000']::bit(3)[]"},
	"varbit(5)":                 {"B'10101'", "B''"},
	"bit":                       {"B'1'"},
	"time(0)":                   {"'00:00'::time + g * interval '0.6 s'", "'24:00'"},
	"timetz(3)":                 {"'10:00:00.123456+03'"},
	"timestamp(0)":              {"now()", "'infinity'"},
	"interval(2)":               {"g * interval '1 month 2 days 3.45678 s'", "-g * interval '0.005 s'"},
	"interval day to second(0)": {"g * interval '1 month 2 days 3.6 s'"},
	"interval year":             {"g * interval '1 year'"},
	"char(5)":                   {"'äbc'", "g::text"},
	"varchar(3)":                {"'ääö'"},
	"txid_snapshot":             {"'10:20:11,15,19'", "txid_current_snapshot()", "'5:5:'"},
	"citext":                    {"'Ab' || g", "''"},
	"cube":                      {"cube(g)", "'(1,2),(3,4)'", "cube(ARRAY[g, 1, 2])", "cube_union('(1,2)', cube(ARRAY[g, g], ARRAY[g, g + 1]))", "cube_enlarge('(1)', g, 3)", "'()'", "cube_subset('(1,2,3),(4,5,6)', ARRAY[2, 1, 2])"},
	"hstore":                    {"hstore('key' || g, NULL)", "''", "'a=>1, bb=>\"\", \"\"=>NULL, c=>ä'", "hstore(ARRAY(SELECT 'k' || i FROM generate_series(1, g) i), ARRAY(SELECT i::text FROM generate_series(1, g) i)) - 'k2'::text || 'new=>1'", "delete('a=>1'::hstore, 'a')", "slice('a=>1, b=>2, c=>3', ARRAY['c', 'x', 'a'])", "hstore('a=>1, a=>2') || hstore('a', repeat('x', g * 10))"},
	"tags":                      {"hstore('a', g::text)"},
	"ltree":                     {"('a.b' || g || '.ccccccccc')::ltree", "''", "subpath('Top.Science.Astronomy.Stars', 1, 2)", "subpath('a.b', 0, 0)", "lca('1.2.3', '1.2.4.5')", "'a.b'::ltree || ('c' || g)", "('x' || repeat('y', g) || '.z')::ltree"},
	"ltree[]":                   {"ARRAY['a.b', NULL, '']::ltree[]"},
	"cube[]":                    {"ARRAY['(1,2)', '(1),(2)']::cube[]"},
	"varchar(5)[]":              {"ARRAY['abcde', NULL]"},
}

// jsonbSQL makes an object with keys of many lengths.
const jsonbSQL = `CREATE FUNCTION jsonb_object_agg_of(g int) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_object_agg(repeat(chr(97 + i % 26), 1 + i % 7) || i, i * 0.5) FROM generate_series(1, g) i $$`

// TestPossibleValues reads values of every type, and is silent.
func TestPossibleValues(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "erp", typesOf)
		server.MustExec(t, "erp", jsonbSQL)
		var script strings.Builder
		n := 0
		for name, expressions := range possible {
			array := "ARRAY[v, NULL, v]"
			if strings.HasSuffix(name, "[]") || strings.HasSuffix(name, "vector") || name == "days" {
				array = "v" // there are no arrays of such
			}
			for _, expression := range expressions {
				n++
				fmt.Fprintf(&script, "CREATE TABLE p%d (v %s); INSERT INTO p%[1]d SELECT (%[3]s)::%[2]s FROM generate_series(1, 60) g;\n", n, name, expression)
				fmt.Fprintf(&script, "CREATE TABLE more%d AS SELECT NULL::int AS n, v, 1 AS one, v AS w, %s AS a FROM p%[1]d;\n", n, array)
			}
		}
		server.MustExec(t, "erp", script.String())
		if major >= 14 {
			server.MustExec(t, "erp", `CREATE TABLE many_ranges AS SELECT range_agg(int4range(g * 10, g * 10 + 5)) AS i, range_agg(int8range(g, g + 1)) AS one, range_agg(numrange(g, g + 0.5, '(]')) AS n,
				range_agg(daterange('2026-01-01'::date + g * 3, '2026-01-02'::date + g * 3, '[]')) AS d, range_agg(tstzrange(now() + g * interval '1 h', now() + g * interval '1 h', '[]')) AS ts,
				range_agg(spans(g::text, g::text || repeat('x', g * 3))) AS s FROM generate_series(1, 60) g`)
			server.MustExec(t, "erp", `CREATE TABLE edges AS SELECT '{(,3),(5,)}'::int4multirange AS i, '{(,)}'::nummultirange AS n, '{[1,2),(2,3]}'::nummultirange AS both, '{}'::int8multirange AS e, '{}'::spans_multirange AS s,
				'{(-infinity,2026-01-01),[2026-02-01,infinity]}'::datemultirange AS d, ARRAY['{[1,2),[3,4)}'::int4multirange, '{}'] AS a FROM generate_series(1, 20) g`)
			server.MustExec(t, "erp", "CREATE TABLE many AS SELECT int4multirange(int4range(1, g + 1), int4range(g + 5, g + 9)) AS i, '{}'::nummultirange AS e, nummultirange(numrange(1, g), numrange(g + 2, NULL)) AS n FROM generate_series(1, 50) g")
		}
		if major >= 15 {
			server.MustExec(t, "erp", "CREATE TABLE rounded AS SELECT g * 12345678::numeric(3, -6) AS n, (g * 0.0000123)::numeric(3, 6) AS small FROM generate_series(1, 10) g; ALTER TABLE rounded ALTER n TYPE numeric(3, -8)")
		}
		server.MustExec(t, "erp", "VACUUM FREEZE")
		// A label that only rows have which are gone.
		server.MustExec(t, "erp", `CREATE TYPE signal AS ENUM ('red', 'green', 'amber'); CREATE TABLE signals (i int, s signal) WITH (autovacuum_enabled = off);
			INSERT INTO signals SELECT g, CASE WHEN g % 2 = 0 THEN 'green' ELSE 'red' END::signal FROM generate_series(1, 1000) g; UPDATE signals SET s = 'red' WHERE s = 'green';
			SET allow_system_table_mods = on; DELETE FROM pg_enum WHERE enumlabel = 'green'`)
		server.MustExec(t, "erp", "CHECKPOINT")
		document := sweep(t, server, check.Options{Checks: named(t, "page")})
		for _, finding := range document.Findings {
			t.Errorf("%+v", finding)
		}
		if c := document.Checks[0]; c.Outcome != check.OutcomeOK {
			t.Errorf("%+v", c)
		}
	})
}

// damagedValue is a value, what of its bytes becomes what, and what is said.
type damagedValue struct{ typeName, value, from, to, says string }

// impossible are values that their types cannot have.
var impossible = []damagedValue{
	{"name", "'abcdefgh'", hex.EncodeToString([]byte("abcdefgh")), hex.EncodeToString([]byte("abcd\xffefg")), "not valid UTF-8"},
	{"int2vector", "'7001 7002'", "02000000" + "00000000" + "591b5a1b", "03000000" + "00000000" + "591b5a1b", "impossible head"},
	{"json", `'{"abcdefg": 1}'`, hex.EncodeToString([]byte(`"abcdefg":`)), hex.EncodeToString([]byte(`"abcdefg";`)), "not JSON"},
	{"jsonb", `'{"x": {"abcdefg": 1, "hijklmn": 2}}'`, hex.EncodeToString([]byte("abcdefg")), hex.EncodeToString([]byte("zbcdefg")), "out of order"},
	{"jsonb", `'{"x": [12345678, "abcdefg"]}'`, "d204" + "2e16", "d204" + "2eff", "digit"},
	{"numeric", "123456789.5", "0100" + "2909", "0000" + "2909", "begins or ends"},
	{"numeric", "1234567.8901", "0182" + "7b00", "8180" + "7b00", "4 decimals"},
	{"time", "'12:34:56'", "001cda8b0a000000", "001cda8b7a000000", "time of day"},
	{"inet", "'10.20.30.40'", "02200a141e28", "09200a141e28", "unknown family"},
	{"inet", "'10.20.30.40'", "02200a141e28", "02f00a141e28", "netmask"},
	{"cidr", "'10.20.0.0/16'", "02100a140000", "02100a140100", "behind its netmask"},
	{"varbit", "B'1011011101111111'", "10000000b77f", "18000000b77f", "bit string"},
	{"circle", "'<(3,4),5>'", "00000000000008400000000000001040" + "0000000000001440", "00000000000008400000000000001040" + "00000000000014c0", "radius"},
	{"box", "'(3,4),(1,2)'", "00000000000008400000000000001040", "00000000000008c00000000000001040", "corners"},
	{"polygon", "'((1,2),(3,4),(5,6))'", "00000000000008400000000000001040", "0000000000c07f400000000000001040", "box around"},
	{"path", "'[(1,2),(3,4)]'", "0200000000000000", "0300000000000000", "number of points"},
	{"tsvector", "'aaaa bbbb cccc'", hex.EncodeToString([]byte("aaaabbbb")), hex.EncodeToString([]byte("zaaabbbb")), "out of order"},
	{"int4range", "'[1000,2000)'", "e8030000d0070000", "d8070000d0070000", "behind the upper"},
	{"int4range", "'[1000,2000)'", "e8030000d007000002", "e8030000d007000006", "flags"},
	{"numrange", "'[1000,2000)'", "e8030b", "e8ff0b", "digit"},
	{"mood", "'glad'", "", "", "does not have"},
	{"pair", "ROW(1000, 'abcdefg')", "", "", "of another type"},
	{"int[]", "ARRAY[7001, 7002]", "02000000" + "01000000" + "591b0000", "03000000" + "01000000" + "591b0000", "element 3"},
	{"int[]", "ARRAY[7001, 7002]", "02000000" + "01000000" + "591b0000", "01000000" + "01000000" + "591b0000", "ends at byte"},
	{"bool[]", "ARRAY[true, true, true]", "03000000" + "01000000" + "010101", "03000000" + "01000000" + "010501", "element 2"},
	{"text[]", "ARRAY['abcdefg', 'hijklmn']", hex.EncodeToString([]byte("hijklmn")), hex.EncodeToString([]byte("hij\xfflmn")), "element 2"},
	{"date[]", "ARRAY['2026-01-01', '2026-01-02']::date[]", "192500001a250000", "192500801a250000", "element 1"},
	{"good_mood[]", "ARRAY['glad', 'calm']::good_mood[]", "", "", "element 1"},
	{"int[]", "ARRAY[7001, 7002]", "01000000" + "00000000" + "17000000", "00000000" + "00000000" + "17000000", "no dimensions"},
	{"int[]", "ARRAY[7001, 7002]", "02000000" + "01000000" + "591b0000", "02000000" + "ffffff7f" + "591b0000", "more than there are numbers"},
	{"numrange", "'[1000,2000)'", "0b0080e803", "0b0080e80b", "behind the upper"},
	{"daterange", "'[2026-01-01,2026-02-01)'", "1925000038250000" + "02", "1925000038250000" + "06", "whole numbers"},
	{"tsquery", query, "03000000" + "0202", "02000000" + "0202", "behind its end"},
	{"tsquery", query, "03000000" + "0202", "ff000000" + "0202", "number of operators and operands"},
	{"tsquery", query, "03000000" + "0202", "00000000" + "0202", "empty, but has"},
	{"tsquery", query, "03000000" + "0202", "03000000" + "0302", "part 1 of its tsquery is of the unknown kind 3"},
	{"tsquery", query, "0202000002000000", "0205000002000000", "unknown operator 5"},
	{"tsquery", query, "0202000002000000", "0202000001000000", "left side at 2 instead of 3"},
	{"tsquery", query, "0202000002000000", "0201000002000000", "complete after 2 of 3"},
	{"tsquery", query, "0200000000000000" + "0100", "0200000000000000" + "01ff", "weights"},
	{"tsquery", query, "07800000", "07f00000", "ends at byte 22 of 16"},
	{"tsquery", query, "07800000", "06800000", "no zero behind"},
	{"tsquery", query, hex.EncodeToString([]byte("hijklmn")), hex.EncodeToString([]byte("hij\xfflmn")), "part 2 of its tsquery: its text"},
	{"txid_snapshot", "'16:32:17,24'", "02000000" + "1000000000000000", "03000000" + "1000000000000000", "number of transactions"},
	{"txid_snapshot", "'16:32:17,24'", "1000000000000000" + "2000000000000000", "1000000000000000" + "0800000000000000", "from transaction 16 to 8"},
	{"txid_snapshot", "'16:32:17,24'", "1100000000000000" + "1800000000000000", "1100000000000000" + "1000000000000000", "transaction 2 of its snapshot"},
	{"txid_snapshot", "'16:32:17,24'", "1100000000000000" + "1800000000000000", "1100000000000000" + "2800000000000000", "transaction 2 of its snapshot"},
	{"numeric(7, 2)", "12.5", "0081" + "0c00", "8081" + "0c00", "3 decimals, but its column takes 2"},
	{"price", "12.5", "0081" + "0c00", "8081" + "0c00", "3 decimals, but its column takes 2"},
	{"low_price", "12.5", "0081" + "0c00", "8081" + "0c00", "3 decimals, but its column takes 2"},
	{"numeric(7, 2)[]", "ARRAY[12.5]", "0081" + "0c00", "8081" + "0c00", "3 decimals, but its column takes 2"},
	{"numeric(7, 2)", "12.5", "0081" + "0c00", "0181" + "0c00", "6 digits before the point, but its column takes 5"},
	{"bit(11)", "B'10110111011'", "0b000000", "0c000000", "12 bits, but its column takes 11"},
	{"varbit(11)", "B'10110111011'", "0b000000", "0c000000", "12 bits, but its column takes 11"},
	{"time(0)", "'12:34:56'", "001cda8b0a000000", "001dda8b0a000000", "more decimals"},
	{"timetz(3)", "'12:34:56+00'", "001cda8b0a000000", "001dda8b0a000000", "more decimals"},
	{"interval(3)", "'1 day 12:34:56'", "001cda8b0a000000", "001dda8b0a000000", "more decimals"},
	{"citext", "'abcdefgh'", hex.EncodeToString([]byte("abcdefgh")), hex.EncodeToString([]byte("abc\x00efgh")), "bytes of zero"},
	{"cube", "'(1,2)'", "02000080" + "000000000000f03f", "03000080" + "000000000000f03f", "3 dimensions"},
	{"cube", "'(1,2)'", "02000080" + "000000000000f03f", "02000000" + "000000000000f03f", "2 dimensions"},
	{"hstore", tags, "03000080", "05000080", "says that it has"},
	{"hstore", tags, "03000080" + "01000080", "03000080" + "01000000", "part 1 of its hstore has the wrong mark"},
	{"hstore", tags, "04000000" + "06000000", "04000080" + "06000000", "wrong mark"},
	{"hstore", tags, "04000000" + "06000000", "04000000" + "03000000", "part 5 of its hstore goes from byte 4 to 3"},
	{"hstore", tags, "04000000" + "06000000", "04000040" + "06000000", "part 4 of its hstore is NULL"},
	{"hstore", tags, hex.EncodeToString([]byte("a1b2")), hex.EncodeToString([]byte("a1a2")), "key 2 of its hstore is out of order"},
	{"hstore", tags, hex.EncodeToString([]byte("a1b2")), hex.EncodeToString([]byte("a1\xff2")), "not valid UTF-8"},
	{"tags", tags, "03000080" + "01000080", "02000080" + "01000080", "bytes of zero"},
	{"text", "repeat('abcdefghijklmnop', 200)", hex.EncodeToString([]byte("ijklm")), hex.EncodeToString([]byte("ij\x00lm")), "bytes of zero"},
	{"ltree", "'abc.defg'", "02000000" + "0300", "03000000" + "0300", "label 3 of 3"},
	{"ltree", "'abc.defg'", "02000000" + "0300", "01000000" + "0300", "end at byte 12 of 20"},
	{"ltree", "'abc.defg'", "0400" + hex.EncodeToString([]byte("defg")), "4000" + hex.EncodeToString([]byte("defg")), "label 2 of 2"},
	{"tsquery", "'!abcdefg'", "02000000" + "0201", "01000000" + "0201", "ends with an operator"},
}

// query is a query of two operands: its operator comes first, then the right one.
const query = "'abcdefg & hijklmn'"

const tags = "'a=>1, b=>2, cc=>dd'"

// impossibleMultiranges are such of types that are there from 14 on.
var impossibleMultiranges = []damagedValue{
	{"int4multirange", five, "05000000" + "08000000", "04000000" + "08000000", "impossible flags"},
	{"int4multirange", five, "05000000" + "08000000", "05000000" + "0c000000", "place of range 2"},
	{"int4multirange", five, "08000000" + "20000080", "08000000" + "28000080", "place of range 5"},
	{"int4multirange", five, "08000000" + "20000080", "08000000" + "20000000", "place of range 5"},
	{"int4multirange", five, "0202020202000000", "0202040202000000", "range 3 of its multirange: its range of whole numbers"},
	{"int4multirange", five, "0202020202000000", "020a020202000000", "impossible flags"},
	{"int4multirange", five, "0202020202000000", "02020a0202000000", "impossible flags"},
	{"int4multirange", five, "e8030000d0070000", "e8030000d0000000", "behind the upper"},
	{"int4multirange", five, "e8030000d0070000", "e8030000b80b0000", "range 2 of its multirange begins before"},
	{"nummultirange", "'{[1000,2000),[3000,4000)}'", "0b0080d007", "0b0080d00f", "range 2 of its multirange begins before"},
	{"int4multirange", "'{}'", "00000000" + "000000" + "02000000", "01000000" + "000000" + "02000000", "it has 1 ranges"},
}

// five is a multirange of five ranges: the place of the last one counts from the
// first.
const five = "'{[1000,2000),[3000,4000),[5000,6000),[7000,8000),[9000,9500)}'"

// TestImpossibleValues damages values, so that they are none of their types, with
// valid checksums.
func TestImpossibleValues(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "erp", typesOf)
		impossible := impossible
		if major >= 14 {
			impossible = append(slices.Clip(impossible), impossibleMultiranges...)
		}
		for i, d := range impossible {
			server.MustExec(t, "erp", fmt.Sprintf("CREATE TABLE i%d (a int, v %s, z int) WITH (autovacuum_enabled = off); INSERT INTO i%d VALUES (1, %s, 2)", i, d.typeName, i, d.value))
		}
		oid := func(sql string) string {
			var n uint32
			if err := server.Query(t.Context(), "erp", sql, &n); err != nil {
				t.Fatal(err)
			}
			return hex.EncodeToString([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
		}
		glad, pair := oid("SELECT oid FROM pg_enum WHERE enumlabel = 'glad'"), oid("SELECT 'pair'::regtype::oid")
		server.MustExec(t, "erp", "CHECKPOINT")
		var relations []pgtest.Relation
		for i := range impossible {
			relations = append(relations, server.MustRelation(t, "erp", fmt.Sprintf("i%d", i)))
		}
		server.WhileDown(t, func() error {
			for i, r := range relations {
				d := impossible[i]
				from, to := d.from, d.to
				if from == "" {
					if from = glad; d.typeName == "pair" {
						from = pair
					}
					to = "01020304"
				}
				if err := exchange(r, from, to); err != nil {
					return fmt.Errorf("%s %s: %w", d.typeName, d.value, err)
				}
			}
			return nil
		})
		all := sweep(t, server, check.Options{Checks: named(t, "page")}).Findings
		for i, d := range impossible {
			found := false
			for _, f := range all {
				found = found || f.Relation == fmt.Sprintf("i%d", i) && strings.Contains(f.Message, d.says)
			}
			if !found {
				t.Errorf("%s %s (i%d): nothing says %q", d.typeName, d.value, i, d.says)
			}
		}
		if t.Failed() {
			for _, f := range all {
				t.Logf("%s: %s", f.Relation, f.Message)
			}
		}
	})
}

// exchange changes bytes, given as hex digits, in the first page of a relation.
func exchange(r pgtest.Relation, from, to string) error {
	before, err := hex.DecodeString(from)
	if err != nil {
		return err
	}
	after, err := hex.DecodeString(to)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(r.Path)
	if err != nil {
		return err
	}
	at := bytes.LastIndex(content[:page.Size], before)
	if at < 0 {
		return fmt.Errorf("the bytes %s are not there", from)
	}
	return r.EditValid(0, func(p []byte) { copy(p[at:], after) })
}
