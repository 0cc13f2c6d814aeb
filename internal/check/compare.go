package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// comparison compares the indexes of one table with it, each question asked both
// ways under one snapshot.
type comparison struct {
	*session

	gin function
	// values says that columns may be read: the tuples were found sane.
	values bool
	// seed chooses the sample; a second look takes the same.
	seed int64
	// failed are the indexes that could not be looked at.
	failed map[uint32]bool

	// rows are the numbers of rows that a sequential scan gave, by predicate.
	rows map[string]int64
	// contested says that the table has several indexes among which the planner
	// may choose.
	contested bool
	// bytes are those that were read. The pause for them comes after the
	// transaction.
	bytes int64
}

// all looks at every index. A transaction ends with a statement that fails; the
// next index begins a new one.
func (c *comparison) all(ctx context.Context, indexes []compared) (map[uint32][]difference, error) {
	if c.failed == nil {
		c.failed = make(map[uint32]bool)
	}
	differences := make(map[uint32][]difference)
	for len(indexes) > 0 {
		done, err := c.transaction(ctx, indexes, differences)
		if ctx.Err() != nil || c.conn.IsClosed() {
			return nil, err
		}
		if done == 0 && err != nil {
			// No statement on the table can be planned.
			if judge(err) == inconclusive || dataFile.FindString(text(err)) == "" {
				return nil, err
			}
			for _, i := range indexes {
				c.failed[i.OID] = true
			}
			oid, failed := c.culprit(ctx, indexes[0], err)
			differences[oid] = append(differences[oid], errorDifference(err))
			return differences, failed
		}
		if err == nil {
			return differences, nil
		}
		// The last of those that were begun ended the transaction.
		i := indexes[done-1]
		indexes = indexes[done:]
		switch {
		case gone(err):
		case judge(err) == inconclusive:
			c.failed[i.OID] = true
			c.problem(i.Name.String(), c.explainTimeout(err))
		default:
			c.failed[i.OID] = true
			oid, failed := c.culprit(ctx, i, err)
			if failed != nil {
				return nil, failed
			}
			differences[oid] = append(differences[oid], errorDifference(err))
		}
	}
	return differences, nil
}

func (c *comparison) explainTimeout(err error) error {
	if sqlstate(err) == "57014" {
		return fmt.Errorf("comparing it with its table took longer than %s; run check --deep for it", c.timeout())
	}
	return err
}

func (c *comparison) timeout() time.Duration {
	if c.scope.Deep {
		return statementTimeout
	}
	return compareTimeout
}

// culprit is the relation whose file an error names: an index of the table, as
// the server opens all of them to plan a statement, or the table itself, when an
// index leads to a page that cannot be read. Without a name it is the index that
// was being read.
func (c *comparison) culprit(ctx context.Context, i compared, failure error) (uint32, error) {
	path := dataFile.FindString(text(failure))
	if path == "" {
		return i.OID, nil
	}
	var oid uint32
	const sql = `SELECT oid FROM (SELECT indexrelid FROM pg_index WHERE indrelid = $1 UNION VALUES ($1)) AS of_table(oid) WHERE pg_relation_filepath(oid) = $2`
	err := c.conn.QueryRow(ctx, sql, i.Table.OID, path).Scan(&oid)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, failure
	}
	return oid, err
}

func errorDifference(err error) difference {
	return difference{kind: sqlstate(err), message: text(err), sqlstate: sqlstate(err), block: blockIn(text(err)), rows: -1, entries: -1}
}

// transaction looks at indexes under one snapshot and says how many were begun.
// The first statement locks the table until the end, so that nothing but reads,
// writes and VACUUM happens to it meanwhile.
func (c *comparison) transaction(ctx context.Context, indexes []compared, differences map[uint32][]difference) (done int, err error) {
	if _, err := c.conn.Exec(ctx, "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil { //nolint:dupword // SQL says READ twice
		return 0, err
	}
	defer func() {
		// A broken session is noticed by whoever uses it next.
		_, _ = c.conn.Exec(context.WithoutCancel(ctx), "COMMIT")
	}()
	if _, err := c.conn.Exec(ctx, c.settings()); err != nil {
		return 0, err
	}
	c.rows, c.contested = make(map[string]int64), len(indexes) > 1
	if err := c.countTable(ctx, indexes); err != nil {
		return 0, err
	}
	for _, i := range indexes {
		done++
		found, err := c.bounded(ctx, i)
		if err != nil {
			return done, err
		}
		differences[i.OID] = append(differences[i.OID], found...)
	}
	return done, nil
}

// bounded looks at an index, and gives the session up when the server heeds
// neither statement_timeout nor a cancel: going through a damaged index it may do
// neither.
func (c *comparison) bounded(ctx context.Context, i compared) ([]difference, error) {
	const statements = 4
	ctx, cancel := context.WithTimeoutCause(ctx, statements*c.timeout(), fmt.Errorf("the server does not end its look through the index %s; it may loop in a damaged one", i.Name))
	defer cancel()
	found, err := c.index(ctx, i)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return found, err
}

// settings are those that plans depend on. What the planner could conclude from
// constraints is switched off, because constraints may be violated.
func (c *comparison) settings() string {
	settings := []string{
		"statement_timeout = " + strconv.FormatInt(c.timeout().Milliseconds(), 10),
		"row_security = off", "jit = off", "constraint_exclusion = off", "max_parallel_workers_per_gather = 0",
		"enable_hashjoin = off", "enable_mergejoin = off", "enable_material = off", "enable_tidscan = off", "work_mem = '32MB'",
	}
	if c.conn.Facts.VersionNum >= 140000 {
		settings = append(settings, "enable_memoize = off")
	}
	if c.conn.Facts.VersionNum >= 180000 {
		settings = append(settings, "enable_self_join_elimination = off")
	}
	return "SET LOCAL " + strings.Join(settings, "; SET LOCAL ")
}

// way is a way to answer a question.
type way int

const (
	sequentially way = iota
	byIndex          // rows in the order of the index, the index alone where it can
	byBitmap
)

// by switches off every other way. The planner may still take another one when
// there is no other.
func (w way) settings() string {
	on := map[way]string{sequentially: "enable_seqscan", byIndex: "enable_indexscan enable_indexonlyscan", byBitmap: "enable_bitmapscan"}[w]
	var b strings.Builder
	for _, name := range []string{"enable_seqscan", "enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"} {
		value := "off"
		if strings.Contains(" "+on+" ", " "+name+" ") {
			value = "on"
		}
		fmt.Fprintf(&b, "SET LOCAL %s = %s; ", name, value)
	}
	return b.String()
}

func (w way) of(i compared) way {
	if w == byIndex && !i.Tuples {
		return byBitmap
	}
	return w
}

// sql is the table's name in SQL.
func (t table) sql() string { return pgx.Identifier{t.Name.Schema, t.Name.Name}.Sanitize() }

// scan is a node of a plan that reads a relation.
type scan struct {
	Kind  string `json:"Node Type"`
	Index string `json:"Index Name"`
	Plans []scan `json:"Plans"`
}

// planOf is how the server would answer a question under settings, which stay.
// All is sent at once: planning takes most of the time of a small table.
func (c *comparison) planOf(ctx context.Context, settings, sql string) ([]scan, error) {
	results, err := c.conn.PgConn().Exec(ctx, settings+"; EXPLAIN (COSTS off, FORMAT json) "+sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var plans []struct{ Plan scan }
	last := results[len(results)-1]
	if len(last.Rows) != 1 {
		return nil, errors.New("the server does not tell its plan")
	}
	if err := json.Unmarshal(last.Rows[0][0], &plans); err != nil {
		return nil, fmt.Errorf("reading a plan: %w", err)
	}
	var scans []scan
	var walk func(s scan)
	walk = func(s scan) {
		if strings.Contains(s.Kind, "Scan") && s.Kind != "Subquery Scan" && s.Kind != "Bitmap Heap Scan" {
			scans = append(scans, s)
		}
		for _, below := range s.Plans {
			walk(below)
		}
	}
	for _, p := range plans {
		walk(p.Plan)
	}
	return scans, nil
}

// uses says that the server would answer a question with this index, and with
// so many sequential scans besides it where two ways are compared within one
// statement.
func (c *comparison) uses(ctx context.Context, i compared, settings, sql string, sequential int) (bool, error) {
	scans, err := c.planOf(ctx, settings, sql)
	if err != nil {
		return false, err
	}
	ours := 0
	for _, s := range scans {
		switch {
		case s.Index == i.Name.Name:
			ours++
		case s.Index == "" && (s.Kind == "Seq Scan" || s.Kind == "Sample Scan"):
			sequential--
		case s.Kind == "Function Scan", s.Kind == "CTE Scan":
		default:
			return false, nil
		}
	}
	return ours > 0 && sequential == 0, nil
}

// costs are settings under which the planner prefers another index of those that
// could answer: the usual ones, then one whose method does not look at entries one
// by one, then one without a tree to descend.
var costs = []string{
	"SET LOCAL cpu_index_tuple_cost = DEFAULT; SET LOCAL cpu_operator_cost = DEFAULT",
	"SET LOCAL cpu_index_tuple_cost = 1000000",
	"SET LOCAL cpu_index_tuple_cost = DEFAULT; SET LOCAL cpu_operator_cost = 10000",
}

// choose makes the planner answer one of the questions, all of the same meaning,
// with this index, and gives the question; "" is none.
func (c *comparison) choose(ctx context.Context, i compared, sequential int, questions ...string) (string, error) {
	for n, cost := range costs {
		if n > 0 && !c.contested {
			break
		}
		for _, sql := range questions {
			ok, err := c.uses(ctx, i, byIndex.of(i).settings()+cost, sql, sequential)
			if err != nil {
				return "", err
			}
			if ok {
				return sql, nil
			}
		}
	}
	return "", nil
}

// where is the predicate of a partial index as a condition that the planner
// recognises.
func (i compared) where(conditions ...string) string {
	if i.Predicate != "" {
		conditions = append(conditions, i.Predicate)
	}
	if len(conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(conditions, " AND ")
}

// plainWhere is where as conditions that no index can answer.
func (i compared) plainWhere(conditions ...string) string {
	if i.Predicate != "" {
		conditions = append(conditions, "CASE WHEN "+i.Predicate+" THEN true END")
	}
	if len(conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(conditions, " AND ")
}

// countTable counts the rows of the table, and those of each partial index, by
// one sequential scan.
func (c *comparison) countTable(ctx context.Context, indexes []compared) error {
	t := indexes[0].Table
	predicates := []string{""}
	for _, i := range indexes {
		if i.Predicate != "" && c.values && i.Trusted {
			predicates = append(predicates, i.Predicate)
		}
	}
	counts := make([]string, len(predicates))
	values := make([]any, len(predicates))
	rows := make([]int64, len(predicates))
	for n, p := range predicates {
		values[n] = &rows[n]
		counts[n] = "count(*)"
		if p != "" {
			counts[n] += " FILTER (WHERE " + p + ")"
		}
	}
	sql := "SELECT " + strings.Join(counts, ", ") + " FROM ONLY " + t.sql()
	scans, err := c.planOf(ctx, sequentially.settings(), sql)
	if err != nil {
		return err
	}
	if len(scans) != 1 || scans[0].Kind != "Seq Scan" {
		return errors.New("the planner does not read the table sequentially")
	}
	if err := c.conn.QueryRow(ctx, sql).Scan(values...); err != nil {
		return err
	}
	for n, p := range predicates {
		c.rows[p] = rows[n]
	}
	c.bytes += int64(t.Pages) * int64(c.conn.Facts.BlockSize)
	return nil
}

// index compares one index with its table.
func (c *comparison) index(ctx context.Context, i compared) ([]difference, error) {
	if i.Predicate != "" && (!c.values || !i.Trusted) {
		c.notCompared(i)
		return nil, nil
	}
	var found []difference
	whole := c.scope.Deep || i.Pages <= wholePages
	looked := false
	// An index that leads to every row, and to no more than there are, need not be
	// asked for each.
	proved := func() bool { return looked && i.Method == "btree" && len(found) == 0 && c.scope.Heaps.complete(i.OID) }
	for _, look := range []struct {
		when bool
		at   func(context.Context, compared) ([]difference, bool, error)
	}{
		{i.Tuples && i.Method != "hash" && whole, c.count},
		{c.values && i.Trusted && c.rows[""] > 0 && (i.Method == "gist" || i.Method == "spgist"), c.compareKept},
		{c.values && i.Trusted && c.rows[""] > 0, c.lookUp},
		{c.values && i.Trusted && c.rows[""] > 0, c.questions},
		{i.Method == "gin" && c.gin.Name != "", c.verifyGin},
	} {
		if !look.when || proved() {
			continue
		}
		differences, done, err := look.at(ctx, i)
		if err != nil {
			return nil, err
		}
		looked = looked || done
		found = append(found, differences...)
	}
	if !looked && c.rows[""] > 0 {
		c.notCompared(i)
	}
	c.bytes += int64(i.Pages) * int64(c.conn.Facts.BlockSize)
	return found, nil
}

// notCompared says why an index was not compared. One that the planner never
// prefers is told of only where everything was asked for: no statement is
// answered with it while the other index is there.
func (c *comparison) notCompared(i compared) {
	if c.failed[i.OID] {
		return
	}
	c.failed[i.OID] = true
	why := "the planner prefers another index for every question, or the operator class is not known"
	switch {
	case !c.values:
		why = "the values of the table were not proved readable (verify_heapam of amcheck, 14+)"
	case !i.Trusted:
		why = "its expressions call functions of roles that are not superusers, which a check does not run"
	case !c.scope.Deep && len(c.scope.Relations) == 0:
		c.logger.Debug("index not compared", "index", i.Name.String(), "why", why)
		return
	}
	c.problem(i.Name.String(), errors.New("not compared with its table: "+why))
}

// count compares the number of entries of an index that can be read from one end
// to the other with the number of rows. It reads no column of the table.
func (c *comparison) count(ctx context.Context, i compared) ([]difference, bool, error) {
	rows := c.rows[i.Predicate]
	var questions []string
	for _, q := range i.counts() {
		// An index whose pages are linked to a ring gives rows for ever.
		questions = append(questions, fmt.Sprintf(q, i.Table.sql()+i.where(), rows+max(1000, rows/10)))
	}
	sql, err := c.choose(ctx, i, 0, questions...)
	if err != nil {
		return nil, false, err
	}
	if sql == "" {
		return c.countNotNull(ctx, i)
	}
	var entries int64
	if err := c.conn.QueryRow(ctx, sql).Scan(&entries); err != nil {
		return nil, false, err
	}
	found := countDifference(rows, entries)
	if entries > rows && i.Method != "btree" && c.values && i.Trusted {
		return c.doubled(ctx, i, found)
	}
	return found, true, nil
}

// doubled says of an index with too many entries when it is some rows that it has
// twice: the table has lost none then.
func (c *comparison) doubled(ctx context.Context, i compared, extra []difference) ([]difference, bool, error) {
	sql, err := c.choose(ctx, i, 0, "SELECT count(*) - count(DISTINCT ctid) FROM ONLY "+i.Table.sql()+i.where(i.Columns[0].Expression+" IS NOT NULL"))
	if err != nil || sql == "" {
		return extra, true, err
	}
	var twice int64
	if err := c.conn.QueryRow(ctx, sql).Scan(&twice); err != nil {
		return nil, false, err
	}
	if twice > 0 {
		return []difference{{kind: "doubled", message: fmt.Sprintf("the index gives %d rows twice", twice), rows: -1, entries: -1}}, true, nil
	}
	return extra, true, nil
}

// compareKept compares the values that an index keeps and can give back with those
// of the table.
func (c *comparison) compareKept(ctx context.Context, i compared) ([]difference, bool, error) {
	if !c.scope.Deep && c.rows[""] > wholeRows {
		return nil, false, nil
	}
	var found []difference
	done := false
	for _, col := range i.Columns {
		if !col.Plain {
			continue
		}
		// What a type is kept as may lack the spaces at its end.
		question := "SELECT count(*), coalesce(sum(hashtext(rtrim(format('%s', " + col.Expression + ")))), 0)::bigint FROM ONLY " + i.Table.sql()
		scans, err := c.planOf(ctx, byIndex.settings(), question+i.where())
		if err != nil {
			return nil, false, err
		}
		if len(scans) != 1 || scans[0].Kind != "Index Only Scan" || scans[0].Index != i.Name.Name {
			continue
		}
		var rows, entries, has, keeps int64
		if err := c.conn.QueryRow(ctx, question+i.where()).Scan(&entries, &keeps); err != nil {
			return nil, false, err
		}
		if _, err := c.conn.Exec(ctx, sequentially.settings()); err != nil {
			return nil, false, err
		}
		if err := c.conn.QueryRow(ctx, question+i.plainWhere()).Scan(&rows, &has); err != nil {
			return nil, false, err
		}
		done = true
		if rows == entries && has != keeps {
			found = append(found, difference{kind: "kept", message: fmt.Sprintf("of %d values of %s the index keeps some that are not those of the table", rows, col.Expression), rows: -1, entries: -1})
		}
	}
	return found, done, nil
}

// countNotNull is count for an index that cannot answer alone: it compares the
// rows that the index finds.
func (c *comparison) countNotNull(ctx context.Context, i compared) ([]difference, bool, error) {
	if !c.values || !i.Trusted || i.Method == "btree" {
		return nil, false, nil
	}
	const question = "SELECT count(*), coalesce(sum(" + identity + "), 0)::bigint FROM ONLY "
	first := i.Columns[0].Expression
	sql, err := c.choose(ctx, i, 0, question+i.Table.sql()+i.where(first+" IS NOT NULL"))
	if err != nil || sql == "" {
		return nil, false, err
	}
	var rows, entries, seen, given int64
	if err := c.conn.QueryRow(ctx, sql).Scan(&entries, &given); err != nil {
		return nil, false, err
	}
	if _, err := c.conn.Exec(ctx, sequentially.settings()); err != nil {
		return nil, false, err
	}
	if err := c.conn.QueryRow(ctx, question+i.Table.sql()+i.plainWhere("num_nulls("+first+") = 0")).Scan(&rows, &seen); err != nil {
		return nil, false, err
	}
	if rows == entries && seen != given {
		return []difference{{kind: "wrong", message: fmt.Sprintf("of %d rows the index gives some that a sequential scan does not, and misses others", rows), rows: -1, entries: -1}}, true, nil
	}
	differences := countDifference(rows, entries)
	for n := range differences {
		differences[n].rows, differences[n].entries = -1, -1 // rows without a value are not in these numbers
	}
	return differences, true, nil
}

func countDifference(rows, entries int64) []difference {
	d := difference{rows: rows, entries: entries}
	switch {
	case entries < rows:
		d.kind, d.message = "missing", fmt.Sprintf("the index gives %d rows, a sequential scan %d: rows are missing in the index", entries, rows)
	case entries > rows:
		d.kind, d.message = "extra", fmt.Sprintf("the index gives %d rows, a sequential scan %d: entries are doubled or point to rows that are gone", entries, rows)
	default:
		return nil
	}
	return []difference{d}
}

// counts are questions that read a whole index, the cheapest first; the planner
// takes the cheapest index that can answer, so the later ones name more columns.
func (i compared) counts() []string {
	const all = "SELECT count(*) FROM (SELECT FROM ONLY %s LIMIT %d) AS entries"
	var plain, order, everything []string
	for n, col := range i.Columns {
		if col.Plain {
			everything = append(everything, fmt.Sprintf("%s AS c%d", col.Expression, n))
		}
		if col.Plain && col.Key {
			plain = append(plain, col.Expression)
			order = append(order, col.value()+col.Order)
		}
	}
	questions := []string{all}
	if len(plain) == 0 {
		return questions
	}
	if i.Method == "btree" {
		questions = append(questions, "SELECT count(*) FROM (SELECT "+percent(strings.Join(plain, ", "))+" FROM ONLY %s ORDER BY "+percent(strings.Join(order, ", "))+" LIMIT %d) AS entries")
	}
	var counts []string
	for n, col := range i.Columns {
		if col.Plain {
			counts = append(counts, fmt.Sprintf(", count(c%d)", n))
		}
	}
	// A row is one column, so that the other counts only keep columns in the plan.
	return append(questions, "SELECT (ARRAY[count(*)"+strings.Join(counts, "")+"])[1] FROM (SELECT "+percent(strings.Join(everything, ", "))+" FROM ONLY %s LIMIT %d) AS entries")
}

// percent protects a text in a format.
func percent(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// verifyGin calls gin_index_check, which knows the order of a GIN index (18+).
// ACCESS SHARE on the index and its table; EXECUTE on the function.
func (c *comparison) verifyGin(ctx context.Context, i compared) ([]difference, bool, error) {
	_, err := c.conn.Exec(ctx, "SELECT "+c.gin.call()+"($1::oid::regclass)", i.OID)
	return nil, false, err
}
