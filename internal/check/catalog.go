package check

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// CatalogName is the name of the check that also says that no session can be opened.
const CatalogName = "catalog"

// catalogCheck holds the system catalogues against each other: every reference
// from one to another, every key that must be unique, what holds for each
// row of a kind, and the flags and numbers in pg_class that switch indexes,
// triggers and constraints on. It reads
// them by sequential scans, because a damaged index of a catalogue would lie.
func catalogCheck() Check {
	return Check{
		Name:     CatalogName,
		Question: "Do the system catalogues agree with each other?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}},
		Interval: 24 * time.Hour,
		Needs:    "nothing; catalogues that the role may not read (for pg_monitor pg_authid, pg_statistic, pg_user_mapping, pg_largeobject) are left out",
		Locks:    "ACCESS SHARE on one or two catalogues at a time",
		run:      runCatalog,
	}
}

// catalogSQL lists the catalogues that the role may read.
const catalogSQL = `SELECT c.oid, n.nspname::text, c.relname::text, greatest(c.relpages, 0)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname = 'pg_catalog' AND c.relkind = 'r' AND has_table_privilege(c.oid, 'SELECT')
	ORDER BY c.relname`

// noIndexes makes statements of a session scan tables and catalogues, whose indexes
// may be damaged.
const noIndexes = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off"

// catalogSettings are those of sessions that hold catalogues against each other. They
// make statements hash what they join: the planner thinks that
// a rule finds what is wrong soon, and a loop over scans of two catalogues takes hours
// when nothing is. It hashes a subquery only if it thinks that it fits into work_mem.
const catalogSettings = noIndexes + "; SET enable_nestloop = off; SET jit = off; SET work_mem = '64MB'"

func runCatalog(ctx context.Context, s *session) error {
	if _, err := s.conn.PgConn().Exec(ctx, catalogSettings).ReadAll(); err != nil {
		return fmt.Errorf("switching index scans off: %w", err)
	}
	if len(s.scope.Relations) > 0 {
		return s.scopedFlags(ctx)
	}
	catalogues, err := s.list(ctx, catalogSQL)
	if err != nil {
		return s.onlyHere(ctx, pgClass, catalogSQL, err)
	}
	references, err := s.references(ctx)
	if err != nil {
		return s.onlyHere(ctx, pgClass, s.referencesSQL(), err)
	}
	damaged := s.damagedCatalogues(catalogues)
	var keys map[string][]probe
	if !slices.Contains(damaged, "pg_index") {
		if keys, err = s.keys(ctx); err != nil {
			return s.onlyHere(ctx, pgClass, keysSQL, err)
		}
	}
	var rules map[string][]probe
	unknown := s.conn.Facts.UnknownLayout()
	if unknown != "" {
		s.skipf("only references and keys were looked at: %s", unknown)
	} else {
		if rules, err = s.rules(ctx); err != nil {
			return s.onlyHere(ctx, pgClass, ownColumnsSQL, err)
		}
		if err := s.compareBuiltins(ctx, catalogues, damaged); err != nil {
			return err
		}
	}
	return s.each(ctx, len(catalogues), func(i int) error {
		c := catalogues[i]
		started := time.Now()
		for _, p := range slices.Concat(references[c.Name.Name], keys[c.Name.Name], rules[c.Name.Name]) {
			if p.deep && mentions(p.sql, damaged) {
				continue
			}
			if err := s.probe(ctx, c, p); err != nil {
				if err := s.onlyHere(ctx, c.Name, p.sql, err); !errors.Is(err, errOnlyHere) {
					return err
				}
			}
		}
		if c.Name.Name == "pg_class" && unknown == "" && !mentions(flagsSQL, damaged) {
			if err := s.flags(ctx, c); err != nil {
				return s.onlyHere(ctx, c.Name, flagsSQL, err, nil, nil)
			}
		}
		s.throttle(ctx, started, int64(c.Pages)*int64(s.conn.Facts.BlockSize))
		s.looked(c.Name)
		return nil
	}, func(i int) string { return catalogues[i].Name.String() })
}

// pgClass is what is named when the catalogues cannot be listed.
var pgClass = RelationName{"pg_catalog", "pg_class"}

// errOnlyHere says that a statement fails in this database and not in others, which was
// reported.
var errOnlyHere = errors.New("a statement on the catalogues fails, as reported")

// onlyHere reports a statement of this check that fails twice although another
// database answers it: it names only what every database has, so what it needs of the
// catalogues is damaged. The error is returned when it may have another cause.
func (s *session) onlyHere(ctx context.Context, about RelationName, sql string, first error, arguments ...any) error {
	if !fromCatalogues(first) || s.conn.IsClosed() {
		return first
	}
	pauseToConfirm(ctx)
	if _, err := s.conn.Exec(ctx, sql, arguments...); err == nil || sqlstate(err) != sqlstate(first) {
		return cmp.Or(err, first)
	}
	conn, err := s.elsewhere(ctx, cmp.Or(s.database, s.home))
	if err != nil {
		return first
	}
	defer conn.Close()
	if _, err := conn.Exec(ctx, sql, arguments...); err != nil {
		return first
	}
	s.foundInCatalog(about, "a statement on the catalogues fails here, and not in another database: "+text(first))
	return errOnlyHere
}

// fromCatalogues says that an error is one that a damaged catalogue can give, not one of
// rights, limits, locks or the connection.
func fromCatalogues(err error) bool {
	state := sqlstate(err)
	for _, class := range []string{"08", "25", "28", "40", "53", "55", "57", "58"} {
		if strings.HasPrefix(state, class) {
			return false
		}
	}
	return state != "" && state != "42501" && judge(err) != damaged // that is told as such
}

// damagedCatalogues are those that a check before found damaged. Values in them of
// which the length is stored are not read: a wrong length crashes the server.
func (s *session) damagedCatalogues(catalogues []table) []string {
	var names []string
	for _, c := range catalogues {
		if s.scope.Heaps.damaged(c.OID) {
			names = append(names, c.Name.Name)
			s.problemf("%s is damaged, as another check has reported: only its columns of a fixed length are compared", c.Name)
		}
	}
	return names
}

// mentions says that a statement reads one of the catalogues.
func mentions(sql string, catalogues []string) bool {
	return slices.ContainsFunc(catalogues, func(name string) bool { return strings.Contains(sql, name) })
}

// probe is a question whose every answer is something wrong.
type probe struct {
	sql string
	// deep says that it reads values of which the length is stored.
	deep bool
	// wrong is what an answer means; %s stands for it.
	wrong string
}

// probe reports the answers of a probe.
func (s *session) probe(ctx context.Context, catalogue table, p probe) error {
	return askTwice(ctx, s, catalogue, func() ([]string, error) {
		rows, err := s.conn.Query(ctx, p.sql)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}, func(value string) { s.foundInCatalog(catalogue.Name, fmt.Sprintf(p.wrong, value)) })
}

// askTwice reports what is wrong in both of two looks at a catalogue, and an
// error that is evidence of damage to it.
func askTwice[T comparable](ctx context.Context, s *session, catalogue table, ask func() ([]T, error), report func(T)) error {
	first, err := ask()
	if err != nil && judge(err) == damaged {
		return s.confirmError(ctx, catalogue, nil, err, func() error {
			_, err := ask()
			return err
		})
	}
	if err != nil || len(first) == 0 {
		return err
	}
	pauseToConfirm(ctx)
	second, err := ask()
	if err != nil {
		return err
	}
	for _, wrong := range first {
		if slices.Contains(second, wrong) {
			report(wrong)
		}
	}
	return nil
}

func (s *session) foundInCatalog(about RelationName, message string) {
	s.found(Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Schema: about.Schema, Relation: about.Name,
		Message: message,
		Impact:  "The server decides by its catalogues which indexes, triggers, constraints and columns exist: statements on what they describe wrongly fail, or skip keys and checks without a word.",
		Action:  "Make no schema changes and do not run VACUUM FULL, REINDEX or pg_upgrade. Copy the data directory first; compare with a standby and with the schema in a backup (pg_restore --schema-only) to see what is missing; then restore or fail over rather than edit catalogues by hand.",
	}, message)
}

// declaredSQL lists the references between catalogues that the server itself
// declares (14+). The last column of an array reference is an array.
const declaredSQL = `SELECT f.relname::text, r.fkcols, p.relname::text, r.pkcols, r.is_array, r.is_opt
	FROM pg_get_catalog_foreign_keys() r
	JOIN pg_class f ON f.oid = r.fktable JOIN pg_class p ON p.oid = r.pktable
	WHERE has_table_privilege(f.oid, 'SELECT') AND (has_table_privilege(p.oid, 'SELECT') OR p.relname = 'pg_authid')`

// references13 are the references of 13, which does not declare them: those that
// 14 declares, in the columns that 13 has.
//
//go:embed catalog_references_13.txt
var references13 string

// referencesSQL is the statement that lists the references in this version.
func (s *session) referencesSQL() string {
	if s.conn.Facts.VersionNum >= 140000 {
		return declaredSQL
	}
	return readableSQL
}

// readableSQL lists the catalogues that the role may read, for 13.
const readableSQL = `SELECT relname::text FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND (has_table_privilege(oid, 'SELECT') OR relname = 'pg_authid')`

// references makes the probes of each catalogue for its references.
func (s *session) references(ctx context.Context) (map[string][]probe, error) {
	list, err := s.declared(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the references between catalogues: %w", err)
	}
	probes := make(map[string][]probe)
	for _, r := range list {
		probes[r.From] = append(probes[r.From], r.probe())
	}
	return probes, nil
}

// declared lists the references between the catalogues that the role may read.
func (s *session) declared(ctx context.Context) ([]reference, error) {
	rows, err := s.conn.Query(ctx, s.referencesSQL())
	if err != nil {
		return nil, err
	}
	if s.conn.Facts.VersionNum >= 140000 {
		return pgx.CollectRows(rows, pgx.RowToStructByPos[reference])
	}
	readable, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	list := parseReferences(references13)
	return slices.DeleteFunc(list, func(r reference) bool {
		return r.From == "pg_authid" || !slices.Contains(readable, r.From) || !slices.Contains(readable, r.To)
	}), nil
}

// parseReferences reads lines of catalogue(columns) catalogue(columns), with
// "array" when the last column is one and "optional" when it may be 0.
func parseReferences(text string) []reference {
	side := func(s string) (catalogue string, columns []string) {
		catalogue, rest, _ := strings.Cut(s, "(")
		return catalogue, strings.Split(strings.TrimSuffix(rest, ")"), ",")
	}
	var list []reference
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		r := reference{Array: slices.Contains(words, "array"), Optional: slices.Contains(words, "optional")}
		r.From, r.FromColumns = side(words[0])
		r.To, r.ToColumns = side(words[1])
		list = append(list, r)
	}
	return list
}

// reference is one reference from a catalogue to another.
type reference struct {
	From        string
	FromColumns []string
	To          string
	ToColumns   []string
	Array       bool
	Optional    bool // 0 refers to nothing
}

func (r reference) probe() probe {
	to := r.To
	if to == "pg_authid" {
		to = "pg_roles" // the same oids, for everybody
	}
	from, elements := "pg_catalog."+quote(r.From)+" f", ""
	var columns, conditions, joins []string
	for i, name := range r.FromColumns {
		column := "f." + quote(name)
		if r.Array && i == len(r.FromColumns)-1 {
			elements = " CROSS JOIN LATERAL unnest(" + column + ") AS u (one)"
			column = "u.one"
		}
		columns = append(columns, column)
		if r.Optional {
			conditions = append(conditions, column+" <> 0 AND ")
		}
		joins = append(joins, "p."+quote(r.ToColumns[i])+" = "+column)
	}
	told := "concat_ws(', ', " + strings.Join(columns, ", ") + ")"
	return probe{
		deep: r.Array,
		sql: "SELECT " + told + inRows(r.From) + " FROM " + from + elements + " WHERE " + strings.Join(conditions, "") +
			"NOT EXISTS (SELECT FROM pg_catalog." + quote(to) + " p WHERE " + strings.Join(joins, " AND ") + ") GROUP BY " + told + " LIMIT 10",
		wrong: fmt.Sprintf("%s (%s) refers to %%s, which %s (%s) does not have",
			r.From, strings.Join(r.FromColumns, ", "), r.To, strings.Join(r.ToColumns, ", ")),
	}
}

// rowNames are what people call the rows f of a catalogue.
var rowNames = map[string]string{
	"pg_aggregate": "f.aggfnoid::oid::text", "pg_am": "f.amname", "pg_attrdef": "f.adrelid::regclass", "pg_attribute": "f.attrelid::regclass || '.' || f.attname",
	"pg_class": "f.oid::regclass", "pg_collation": "f.collname", "pg_constraint": "f.conname", "pg_enum": "f.enumlabel", "pg_foreign_table": "f.ftrelid::regclass",
	"pg_index": "f.indexrelid::regclass", "pg_inherits": "f.inhrelid::regclass", "pg_namespace": "f.nspname", "pg_opclass": "f.opcname", "pg_operator": "f.oprname",
	"pg_opfamily": "f.opfname", "pg_partitioned_table": "f.partrelid::regclass", "pg_policy": "f.polname || ' of ' || f.polrelid::regclass", "pg_proc": "f.proname",
	"pg_publication_rel": "f.prrelid::regclass", "pg_rewrite": "f.rulename || ' of ' || f.ev_class::regclass", "pg_sequence": "f.seqrelid::regclass",
	"pg_statistic": "f.starelid::regclass", "pg_statistic_ext": "f.stxname", "pg_trigger": "f.tgname || ' of ' || f.tgrelid::regclass", "pg_type": "f.typname",
}

// inRows is an aggregate that names some of the rows f of a catalogue, behind what is
// wrong with them.
func inRows(catalogue string) string {
	name, ok := rowNames[catalogue]
	if !ok {
		return ""
	}
	return " || ' (of ' || array_to_string((array_agg(DISTINCT (" + name + ")::text))[1:3], ', ') || CASE WHEN count(DISTINCT (" + name + ")::text) > 3 THEN ' and others)' ELSE ')' END"
}

// keysSQL lists the columns of the catalogues' unique indexes.
const keysSQL = `SELECT c.relname::text, array_agg(a.attname::text ORDER BY k.position), bool_or(a.attlen < 0)
	FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
	CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(attnum, position)
	JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
	WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND i.indisunique AND i.indexprs IS NULL
	AND has_table_privilege(c.oid, 'SELECT')
	GROUP BY c.relname, i.indexrelid`

// keys makes the probes of each catalogue for its unique keys.
func (s *session) keys(ctx context.Context) (map[string][]probe, error) {
	rows, err := s.conn.Query(ctx, keysSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the keys of the catalogues: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Catalogue string
		Columns   []string
		Deep      bool
	}])
	if err != nil {
		return nil, fmt.Errorf("listing the keys of the catalogues: %w", err)
	}
	probes := make(map[string][]probe)
	for _, k := range list {
		columns := strings.Join(quoteAll(k.Columns), ", ")
		probes[k.Catalogue] = append(probes[k.Catalogue], probe{
			deep:  k.Deep,
			sql:   "SELECT concat_ws(', ', " + columns + ") FROM pg_catalog." + quote(k.Catalogue) + " GROUP BY " + columns + " HAVING count(*) > 1 LIMIT 10",
			wrong: fmt.Sprintf("%s has several rows for the key (%s) = (%%s)", k.Catalogue, strings.Join(k.Columns, ", ")),
		})
	}
	return probes, nil
}

func quoteAll(names []string) []string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quote(name)
	}
	return quoted
}

// flagsSQL compares what pg_class says of each relation with the catalogues
// that hold it. A flag may stay on when nothing is left of what it announces;
// one that is off although something exists switches that off without a word.
const flagsSQL = `WITH wrong AS (
	SELECT c.oid, 'pg_class.relhasindex is false although pg_index has indexes of it: they are neither used nor kept up' AS message
	FROM pg_class c WHERE NOT c.relhasindex AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indislive)
	UNION ALL
	SELECT c.oid, 'pg_class.relhastriggers is false although pg_trigger has triggers of it: foreign keys and triggers do not fire'
	FROM pg_class c WHERE NOT c.relhastriggers AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid)
	UNION ALL
	SELECT c.oid, 'pg_class.relhasrules is false although pg_rewrite has rules of it'
	FROM pg_class c WHERE NOT c.relhasrules AND EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)
	UNION ALL
	SELECT c.oid, 'pg_class.relhassubclass is false although pg_inherits has children of it: statements do not see their rows'
	FROM pg_class c WHERE NOT c.relhassubclass AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid)
	UNION ALL
	SELECT c.oid, format('pg_class.relchecks is %s although pg_constraint has %s CHECK constraints of it', c.relchecks, coalesce(k.number, 0))
	FROM pg_class c LEFT JOIN (SELECT conrelid, count(*) AS number FROM pg_constraint WHERE contype = 'c' GROUP BY conrelid) k ON k.conrelid = c.oid
	WHERE c.relchecks <> coalesce(k.number, 0)
	UNION ALL
	SELECT c.oid, format('pg_class.relnatts is %s although pg_attribute has %s columns of it', c.relnatts, coalesce(a.number, 0))
	FROM pg_class c LEFT JOIN (SELECT attrelid, count(*) AS number FROM pg_attribute WHERE attnum > 0 GROUP BY attrelid) a ON a.attrelid = c.oid
	WHERE c.relnatts <> coalesce(a.number, 0)
	UNION ALL
	SELECT c.oid, 'pg_class.relfrozenxid or relminmxid lies in the future: rows may seem older or newer than they are'
	FROM pg_class c WHERE c.relkind IN ('r', 'm', 't') AND (c.relfrozenxid <> '0' AND age(c.relfrozenxid) < 0 OR c.relminmxid <> '0' AND mxid_age(c.relminmxid) < 0)
	UNION ALL
	SELECT c.oid, 'pg_class.relfrozenxid or relminmxid is older than the oldest of the database by pg_database: the status of its transactions may have been thrown away'
	FROM pg_class c WHERE c.relkind IN ('r', 'm', 't')
	AND (c.relfrozenxid <> '0' AND age(c.relfrozenxid) > (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database())
		OR c.relminmxid <> '0' AND mxid_age(c.relminmxid) > (SELECT mxid_age(datminmxid) FROM pg_database WHERE datname = current_database()))
	UNION ALL
	SELECT k.conrelid, format('the foreign key %I has %s of its 4 triggers: it is not enforced', k.conname, count(t.oid))
	FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid AND c.relkind = 'r' JOIN pg_class r ON r.oid = k.confrelid AND r.relkind = 'r'
	LEFT JOIN pg_trigger t ON t.tgconstraint = k.oid
	WHERE k.contype = 'f' AND k.conparentid = 0 AND to_jsonb(k) ->> 'conenforced' IS DISTINCT FROM 'false'
	GROUP BY k.oid, k.conrelid, k.conname HAVING count(t.oid) < 4
)
SELECT n.nspname::text, c.relname::text, w.message FROM wrong w
	JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relpersistence <> 't' AND ($1::text[] IS NULL OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE (wanted.schemaname, wanted.relname) = (n.nspname, c.relname)))
	ORDER BY 1, 2, 3 LIMIT 1000`

// flag is something wrong in pg_class about one relation.
type flag struct{ Schema, Relation, Message string }

// flags reports what pg_class says wrongly.
func (s *session) flags(ctx context.Context, catalogue table) error {
	return askTwice(ctx, s, catalogue, func() ([]flag, error) {
		schemas, names := s.wanted()
		rows, err := s.conn.Query(ctx, flagsSQL, schemas, names)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByPos[flag])
	}, func(f flag) { s.foundInCatalog(RelationName{f.Schema, f.Relation}, f.Message) })
}

// scopedFlags looks at what pg_class says of the relations of the scope only.
func (s *session) scopedFlags(ctx context.Context) error {
	if err := s.flags(ctx, table{Name: RelationName{"pg_catalog", "pg_class"}}); err != nil {
		return err
	}
	for _, r := range s.scope.Relations {
		s.looked(r)
	}
	return nil
}
