package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// builtin are the rows of a catalogue that initdb made, with the columns that no
// statement but one for the catalogue itself can change: every database of a cluster
// has the same, because each is a copy of one that initdb made.
type builtin struct {
	catalogue string
	// key tells the rows apart, own says which ones initdb made.
	key, own string
	// columns are compared as text. What ALTER and CREATE OR REPLACE can set is not
	// among them (owners, names, costs, volatility), nor pg_cast.castcontext and
	// pg_opclass.opcdefault, which people set by hand.
	columns string
}

// fromBootstrap are the OIDs that are the same in every database.
const fromBootstrap = "oid BETWEEN 1 AND 11999"

var builtins = []builtin{
	{"pg_aggregate", "aggfnoid::oid", "aggfnoid::oid < 12000", `aggkind aggnumdirectargs aggtransfn::oid aggfinalfn::oid aggcombinefn::oid aggserialfn::oid aggdeserialfn::oid aggmtransfn::oid aggminvtransfn::oid
		aggmfinalfn::oid aggfinalextra aggmfinalextra aggfinalmodify aggmfinalmodify aggsortop aggtranstype aggtransspace aggmtranstype aggmtransspace agginitval aggminitval`},
	{"pg_am", "oid", fromBootstrap, "amhandler::oid amtype"},
	{"pg_amop", "oid", fromBootstrap, "amopfamily amoplefttype amoprighttype amopstrategy amoppurpose amopopr amopmethod amopsortfamily"},
	{"pg_amproc", "oid", fromBootstrap, "amprocfamily amproclefttype amprocrighttype amprocnum amproc::oid"},
	{"pg_attribute", "attrelid, attnum", "attrelid < 12000", "attname atttypid attlen attbyval attalign attnotnull atthasdef attisdropped attcollation"},
	{"pg_cast", "oid", fromBootstrap, "castsource casttarget castfunc castmethod"},
	{"pg_class", "oid", fromBootstrap, "relname relnamespace reltype reloftype relam relkind relnatts relchecks relpersistence relisshared"},
	{"pg_conversion", "oid", fromBootstrap, "conforencoding contoencoding conproc::oid"},
	{"pg_index", "indexrelid", "indexrelid < 12000", "indrelid indnatts indnkeyatts indisunique indisprimary indimmediate indislive indkey indcollation indclass indoption"},
	{"pg_language", "oid", fromBootstrap, "lanispl lanplcallfoid laninline lanvalidator"},
	{"pg_opclass", "oid", fromBootstrap, "opcmethod opcfamily opcintype opckeytype"},
	{"pg_operator", "oid", fromBootstrap, "oprkind oprcanmerge oprcanhash oprleft oprright oprresult oprcode::oid"},
	{"pg_opfamily", "oid", fromBootstrap, "opfmethod"},
	{"pg_proc", "oid", fromBootstrap, "prolang provariadic prokind proretset pronargs prorettype proargtypes proallargtypes proargmodes"},
	{"pg_range", "rngtypid", "rngtypid < 12000", "rngsubtype rngcollation rngsubopc rngcanonical::oid rngsubdiff::oid"},
	{"pg_ts_parser", "oid", fromBootstrap, "prsstart::oid prstoken::oid prsend::oid prsheadline::oid prslextype::oid"},
	{"pg_ts_template", "oid", fromBootstrap, "tmplinit::oid tmpllexize::oid"},
	{"pg_type", "oid", fromBootstrap, `typlen typbyval typtype typcategory typispreferred typisdefined typdelim typrelid typelem typarray typinput::oid typoutput::oid typreceive::oid typsend::oid
		typmodin::oid typmodout::oid typalign typnotnull typbasetype typtypmod typndims typcollation`},
}

// sql gives each row by its key, as an object of JSON.
func (b builtin) sql() string {
	var members []string
	for column := range strings.FieldsSeq(b.columns) {
		name, _, _ := strings.Cut(column, "::")
		members = append(members, "'"+name+"', "+column+"::text")
	}
	return fmt.Sprintf("SELECT concat_ws(' column ', %s), json_build_object(%s)::text FROM pg_catalog.%s WHERE %s", b.key, strings.Join(members, ", "), b.catalogue, b.own)
}

// rows reads the builtin rows of a catalogue.
func (b builtin) rows(ctx context.Context, conn *pg.Conn) (map[string]string, error) {
	rows, err := conn.Query(ctx, b.sql())
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	var key, row string
	_, err = pgx.ForEachRow(rows, []any{&key, &row}, func() error { found[key] = row; return nil })
	return found, err
}

// others are the builtin rows of other databases of the server, by catalogue.
type others struct {
	names []string
	rows  []map[string]map[string]string
}

// maxOthers is with how many databases one is compared: with two, the one that
// differs is the damaged one.
const maxOthers = 2

// otherDatabasesSQL lists databases to compare with, first those that exist everywhere.
const otherDatabasesSQL = `SELECT datname::text FROM pg_database WHERE datallowconn AND datname <> current_database() AND has_database_privilege(oid, 'CONNECT')
	ORDER BY datname <> 'template1', datname <> 'postgres', datname LIMIT 4`

// others reads the builtin rows of up to two other databases; those that cannot be
// opened or read are damaged themselves, and told of by their own run.
func (s *session) others(ctx context.Context) (o others, err error) {
	rows, err := s.conn.Query(ctx, otherDatabasesSQL)
	if err != nil {
		return o, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return o, err
	}
	for _, name := range names {
		if len(o.names) == maxOthers {
			break
		}
		found, err := s.builtinsOf(ctx, name)
		if err != nil {
			s.logger.Debug("a database is not compared with", "datname", name, "err", err)
			continue
		}
		o.names, o.rows = append(o.names, name), append(o.rows, found)
	}
	return o, ctx.Err()
}

func (s *session) builtinsOf(ctx context.Context, database string) (map[string]map[string]string, error) {
	conn, err := s.target.Connect(ctx, database, s.purpose())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.PgConn().Exec(ctx, catalogSettings).ReadAll(); err != nil {
		return nil, err
	}
	found := make(map[string]map[string]string)
	for _, b := range builtins {
		if found[b.catalogue], err = b.rows(ctx, conn); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// compareBuiltins reports rows that initdb made and that are not as in the other
// databases.
func (s *session) compareBuiltins(ctx context.Context, catalogues []table, damaged []string) error {
	o, err := s.others(ctx)
	if err != nil || len(o.names) == 0 {
		return err
	}
	for _, b := range builtins {
		n := slices.IndexFunc(catalogues, func(c table) bool { return c.Name.Name == b.catalogue })
		if n < 0 || slices.Contains(damaged, b.catalogue) {
			continue
		}
		err := askTwice(ctx, s, catalogues[n], func() ([]string, error) {
			mine, err := b.rows(ctx, s.conn)
			return o.differences(b.catalogue, mine), err
		}, func(message string) { s.foundInCatalog(catalogues[n].Name, message) })
		if err != nil {
			if err := s.onlyHere(ctx, catalogues[n].Name, b.sql(), err); !errors.Is(err, errOnlyHere) {
				return err
			}
		}
	}
	return nil
}

// differences says which rows are not as in the other databases, up to ten.
func (o others) differences(catalogue string, mine map[string]string) []string {
	var list []string
	all := maps.Clone(o.rows[0][catalogue])
	maps.Copy(all, mine)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		row, other := mine[key], o.rows[0][catalogue][key]
		if row == other || len(o.rows) > 1 && o.rows[1][catalogue][key] != other {
			continue
		}
		list = append(list, fmt.Sprintf("the builtin row of %s with the key %s is not as in %s: %s", catalogue, key, strings.Join(o.names, " and "), columnsOf(row, other)))
		if len(list) == 10 {
			break
		}
	}
	return list
}

// columnsOf says how a row differs from that of another database; "" is no row.
func columnsOf(row, other string) string {
	switch "" {
	case row:
		return "it is missing here"
	case other:
		return "it exists only here"
	}
	var mine, theirs map[string]*string
	if json.Unmarshal([]byte(row), &mine) != nil || json.Unmarshal([]byte(other), &theirs) != nil {
		return row + " instead of " + other
	}
	value := func(v *string) string {
		if v == nil {
			return "null"
		}
		return *v
	}
	var columns []string
	for _, column := range slices.Sorted(maps.Keys(theirs)) {
		if a, b := value(mine[column]), value(theirs[column]); a != b {
			columns = append(columns, fmt.Sprintf("%s is %s instead of %s", column, a, b))
		}
	}
	return strings.Join(columns, ", ")
}
