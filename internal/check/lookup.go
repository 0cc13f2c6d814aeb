package check

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// asked is a column of an index with the operator that its own value is asked
// with.
type asked struct {
	indexColumn

	operator operator
}

// asks chooses an operator for each key column that a row's own value satisfies:
// equality where there is one, containment of everything in an inverted index.
func (i compared) asks() []asked {
	order := []string{"=", "~=", "@>", "&&", "@@", "~~"}
	switch i.Method {
	case "gin":
		order = []string{"@>", "@@", "~~", "=", "&&"}
	case "gist", "spgist": // equality is what a B-tree would answer
		order = []string{"@>", "~=", "~~", "&&", "@@", "="}
	}
	var all []asked
	for _, col := range i.Columns {
		if !col.Key {
			continue
		}
		for _, name := range order {
			n := slices.IndexFunc(col.Operators, func(o operator) bool { return o.Name == name && (name == "@@") == (o.Right != "") })
			if n >= 0 {
				all = append(all, asked{col, col.Operators[n]})
				break
			}
		}
	}
	return all
}

// value is the column with the collation of the index.
func (c indexColumn) value() string { return c.Expression + c.Collation }

// question is the value that a row is asked with.
func (a asked) question() string {
	value := a.Expression
	switch {
	case a.operator.Right == "tsquery":
		return "(SELECT string_agg(" + quotedLexeme("l") + ", ' & ')::tsquery FROM unnest(tsvector_to_array(" + value + ")) AS l)"
	case a.operator.Name == "~~":
		return `replace(replace(replace(` + value + `, '\', '\\'), '%', '\%'), '_', '\_')`
	}
	return a.value()
}

// quotedLexeme is a lexeme as a tsquery quotes it.
func quotedLexeme(name string) string {
	return `'''' || replace(replace(` + name + `, '\', '\\'), '''', '''''') || ''''`
}

// condition is the question to the index; from is the name of the value.
func (a asked) condition(from string) string {
	return a.value() + " " + a.operator.SQL + " " + from
}

// forms are questions of the same meaning as that of a row's own value. Only a
// B-tree is searched for an array of values row by row, and only one of the same
// operator class by the bounds.
func (i compared) forms(all []asked) [][]string {
	var plain, array, bounds []string
	for n, a := range all {
		from := fmt.Sprintf("asked.c%d", n)
		plain = append(plain, a.condition(from))
		array = append(array, a.value()+" "+a.operator.SQL+" ANY (ARRAY["+from+"])")
		bounds = append(bounds, a.value()+" "+a.AtLeast+" "+from, a.value()+" "+a.AtMost+" "+from)
	}
	if i.Method == "btree" {
		return [][]string{plain, array, bounds}
	}
	return [][]string{plain}
}

// equal says that all columns are asked with the equality that GROUP BY uses.
func equal(all []asked) bool {
	return !slices.ContainsFunc(all, func(a asked) bool { return !a.operator.Equality })
}

// answerable is a condition of rows that can be asked for: those without NaN.
func (c indexColumn) answerable() string {
	if !c.Geometric {
		return "true"
	}
	return "format('%s', " + c.Expression + ") NOT LIKE '%NaN%'"
}

// named gives the values of the columns names: c0, c1, and so on. Rows without NULL
// and NaN satisfy the condition.
func named(all []asked) (list, names []string, whole string) {
	var values, conditions []string
	for n, a := range all {
		name := fmt.Sprintf("c%d", n)
		list = append(list, a.question()+" AS "+name)
		names = append(names, name)
		values = append(values, a.Expression)
		conditions = append(conditions, a.answerable())
	}
	// No index answers this.
	return list, names, "num_nulls(" + strings.Join(values, ", ") + ") = 0 AND " + strings.Join(conditions, " AND ")
}

// identity is a number for a row that sums can be made of.
const identity = "hashtext(ctid::text)"

// lookUp looks up rows by their own values: each must be found through the index,
// and where equal values can be grouped, nothing else.
func (c *comparison) lookUp(ctx context.Context, i compared) ([]difference, bool, error) {
	all := i.asks()
	if len(all) == 0 || i.Method == "gin" && len(all) < len(keys(i)) {
		return nil, false, nil
	}
	rows := c.rows[""]
	switch whole := c.scope.Deep || rows <= wholeRows; {
	case i.Method == "gin" && whole && !slices.ContainsFunc(keys(i), func(col indexColumn) bool { return col.Parts == "" }):
		return c.lookUpParts(ctx, i)
	case i.Method == "brin":
		return c.lookUpRanges(ctx, i, all)
	case equal(all) && whole:
		return c.compareGroups(ctx, i, all)
	case c.scope.Deep || rows <= wholeLookups:
		return c.findRows(ctx, i, all, "", rows)
	case i.Table.Kind == "t":
		return c.findRows(ctx, i, all, "", sampleRows) // TOAST tables have no TABLESAMPLE
	}
	percentage := min(100, 100*2*float64(sampleRows)/float64(rows))
	return c.findRows(ctx, i, all, fmt.Sprintf(" TABLESAMPLE system (%.6f) REPEATABLE (%d)", percentage, c.seed), sampleRows)
}

func keys(i compared) []indexColumn {
	return slices.DeleteFunc(slices.Clone(i.Columns), func(col indexColumn) bool { return !col.Key })
}

// compareGroups asks the index for each key that the table holds and compares
// the rows that it gives with those that a sequential scan has for the key.
func (c *comparison) compareGroups(ctx context.Context, i compared, all []asked) ([]difference, bool, error) {
	list, names, whole := named(all)
	question := `SELECT coalesce(sum(rows - least(rows, entries)), 0)::bigint, coalesce(sum(entries - least(rows, entries)), 0)::bigint,
		coalesce(sum(rows) FILTER (WHERE rows = entries AND seen IS DISTINCT FROM given), 0)::bigint, coalesce(sum(rows), 0)::bigint
		FROM (SELECT ` + strings.Join(names, ", ") + `, count(*) AS rows, sum(row) AS seen
			FROM (SELECT ` + strings.Join(list, ", ") + `, ` + identity + ` AS row FROM ONLY ` + i.Table.sql() + i.plainWhere(whole) + ` OFFSET 0) AS values
			GROUP BY ` + strings.Join(names, ", ") + `) AS asked,
		LATERAL (SELECT count(*) AS entries, sum(` + identity + `) AS given FROM ONLY ` + i.Table.sql()
	var questions []string
	for _, conditions := range i.forms(all) {
		questions = append(questions, question+i.where(conditions...)+") AS answer")
	}
	sql, err := c.choose(ctx, i, 1, questions...)
	if err != nil || sql == "" {
		return nil, false, err
	}
	var missing, extra, wrong, rows int64
	if err := c.conn.QueryRow(ctx, sql).Scan(&missing, &extra, &wrong, &rows); err != nil {
		return nil, false, err
	}
	return answers(missing, extra, wrong, rows, "rows were looked up by their own key"), true, nil
}

// lookUpParts asks a GIN index for each element of the arrays, or each lexeme of the
// texts, that the table has, and compares the rows that it gives with those that a
// sequential scan has.
func (c *comparison) lookUpParts(ctx context.Context, i compared) ([]difference, bool, error) {
	var found []difference
	done := false
	for _, col := range keys(i) {
		size, parts, condition := "cardinality", "unnest(v)", col.Expression+" @> ARRAY[asked.part]"
		if col.Parts == "tsvector" {
			size, parts, condition = "length", "unnest(tsvector_to_array(v))", col.Expression+" @@ ("+quotedLexeme("asked.part")+")::tsquery"
		}
		var many int64
		if err := c.conn.QueryRow(ctx, "SELECT coalesce(sum("+size+"("+col.Expression+")), 0)::bigint FROM ONLY "+i.Table.sql()+i.plainWhere()).Scan(&many); err != nil {
			return nil, false, err
		}
		one := int64(1) // of so many
		if !c.scope.Deep {
			one += many / wholeParts
		}
		sql, err := c.choose(ctx, i, 1, `SELECT coalesce(sum(rows - least(rows, entries)), 0)::bigint, coalesce(sum(entries - least(rows, entries)), 0)::bigint,
			coalesce(sum(rows) FILTER (WHERE rows = entries AND seen IS DISTINCT FROM given), 0)::bigint, count(*)
			FROM (SELECT part, count(*) AS rows, sum(row) AS seen
				FROM (SELECT `+col.Expression+` AS v, `+identity+` AS row FROM ONLY `+i.Table.sql()+i.plainWhere()+` OFFSET 0) AS values,
				LATERAL (SELECT DISTINCT part FROM `+parts+` AS part WHERE part IS NOT NULL) AS parts
				`+fmt.Sprintf("WHERE (hashtext(part::text)::bigint + %d) %% %d = 0", c.seed, one)+` GROUP BY part) AS asked,
			LATERAL (SELECT count(*) AS entries, sum(`+identity+`) AS given FROM ONLY `+i.Table.sql()+i.where(condition)+`) AS answer`)
		if err != nil {
			return nil, false, err
		}
		if sql == "" {
			continue
		}
		var missing, extra, wrong, asked int64
		if err := c.conn.QueryRow(ctx, sql).Scan(&missing, &extra, &wrong, &asked); err != nil {
			return nil, false, err
		}
		done = true
		found = append(found, answers(missing, extra, wrong, asked, "elements were looked up")...)
	}
	return found, done, nil
}

// answers puts into words what the answers of an index lack and have too many.
func answers(missing, extra, wrong, asked int64, what string) []difference {
	var found []difference
	for _, d := range []struct {
		n          int64
		kind, text string
	}{
		{missing, "missing", "%d %s: the index does not find %d of them"},
		{extra, "extra", "%d %s: the index gives %d rows too many"},
		{wrong, "wrong", "%d %s: for %d of them the index gives other rows"},
	} {
		if d.n > 0 {
			found = append(found, difference{kind: d.kind, message: fmt.Sprintf(d.text, asked, what, d.n), rows: -1, entries: -1})
		}
	}
	return found
}

// findRows looks up rows one by one: the index must find each by its own value.
// A value that does not satisfy the operator with itself, such as an empty
// range that overlaps nothing, is left out, and so are values that hold nothing an
// inverted index could store.
func (c *comparison) findRows(ctx context.Context, i compared, all []asked, sample string, limit int64) ([]difference, bool, error) {
	list, _, whole := named(all)
	filters := []string{whole}
	for _, a := range all {
		filters = append(filters, "("+a.value()+" "+a.operator.SQL+" "+a.question()+") IS TRUE")
		if i.Method == "gin" {
			filters = append(filters, "format('%s', "+a.Expression+") NOT IN ('', '{}', '[]')")
		}
	}
	rows := fmt.Sprintf("(SELECT ctid AS id, %s FROM ONLY %s%s%s LIMIT %d) AS asked", strings.Join(list, ", "), i.Table.sql(), sample, i.plainWhere(filters...), max(1, limit))
	var questions []string
	for _, conditions := range i.forms(all) {
		questions = append(questions, `SELECT count(*), count(*) FILTER (WHERE NOT found)
			FROM (SELECT coalesce((SELECT true FROM ONLY `+i.Table.sql()+i.where(append(conditions, "ctid = asked.id")...)+` LIMIT 1), false) AS found
				FROM `+rows+` OFFSET 0) AS answer`)
	}
	sql, err := c.choose(ctx, i, 1, questions...)
	if err != nil || sql == "" {
		return nil, false, err
	}
	var many, missing int64
	if err := c.conn.QueryRow(ctx, sql).Scan(&many, &missing); err != nil {
		return nil, false, err
	}
	return answers(missing, 0, 0, many, "rows were looked up by their own values"), true, nil
}

// lookUpRanges looks up the smallest and largest value, or one row where values
// have no order, of each range of a BRIN index: a range that its summary does not
// cover is not searched.
func (c *comparison) lookUpRanges(ctx context.Context, i compared, all []asked) ([]difference, bool, error) {
	list, names, whole := named(all)
	within := fmt.Sprintf("(ctid::text::point)[0]::bigint / %d", i.Range)
	var filters []string
	scans := 1
	for _, a := range all {
		filters = append(filters, "("+a.value()+" "+a.operator.SQL+" "+a.question()+") IS TRUE")
		if a.Geometric { // the summary of a range with NaN covers nothing
			filters = append(filters, within+" <> ALL (ARRAY(SELECT "+within+" FROM ONLY "+i.Table.sql()+i.plainWhere("NOT ("+a.answerable()+")")+"))")
			scans++
		}
	}
	ordered := equal(all)
	one := "SELECT DISTINCT ON (range) range, " + strings.Join(names, ", ") + " FROM values"
	asks := one
	if ordered {
		asks = "(" + one + " ORDER BY range, " + strings.Join(names, ", ") + ") UNION ALL (" +
			one + " ORDER BY range, " + strings.Join(names, " DESC, ") + " DESC)"
	}
	limit := int64(200)
	if c.scope.Deep {
		limit = 1 << 30
	}
	sql := `WITH values AS MATERIALIZED (SELECT ` + within + ` AS range, ` + strings.Join(list, ", ") + ` FROM ONLY ` + i.Table.sql() +
		i.plainWhere(append(filters, whole)...) + `)
		SELECT count(*), count(*) FILTER (WHERE NOT found) FROM (
			SELECT coalesce((SELECT true FROM ONLY ` + i.Table.sql() + i.where(append(i.forms(all)[0], within+" = asked.range")...) + ` LIMIT 1), false) AS found
			FROM (SELECT * FROM (` + asks + `) AS every ORDER BY hashtext((range + ` + strconv.FormatInt(c.seed, 10) + `)::text)` + fmt.Sprintf(" LIMIT %d", limit) + `) AS asked OFFSET 0) AS answer`
	sql, err := c.choose(ctx, i, scans, sql)
	if err != nil || sql == "" {
		return nil, false, err
	}
	var rows, missing int64
	if err := c.conn.QueryRow(ctx, sql).Scan(&rows, &missing); err != nil {
		return nil, false, err
	}
	return answers(missing, 0, 0, rows, "values of ranges of pages were looked up"), true, nil
}

// questions asks a few values of the table of the index and of a sequential
// scan, with every operator that takes one: a row too many in the answer of an
// inverted or a spatial index shows only here.
func (c *comparison) questions(ctx context.Context, i compared) ([]difference, bool, error) {
	rows := c.rows[""]
	if rows == 0 || rows > questionRows && !c.scope.Deep || i.Method == "btree" || i.Method == "brin" {
		return nil, false, nil
	}
	many := min(max(questionRows/4/rows, 2), 16)
	var found []difference
	for _, col := range keys(i) {
		for _, o := range col.Operators {
			a := asked{col, o}
			if o.Equality && len(keys(i)) == 1 {
				continue // compareGroups has asked that
			}
			list, _, whole := named([]asked{a})
			condition := a.condition("asked.c0")
			sql := `SELECT coalesce(sum(rows - least(rows, entries)), 0)::bigint, coalesce(sum(entries - least(rows, entries)), 0)::bigint,
				count(*) FILTER (WHERE rows = entries AND seen IS DISTINCT FROM given), count(*)
				FROM (SELECT ` + strings.Join(list, ", ") + ` FROM ONLY ` + i.Table.sql() + i.plainWhere(whole) +
				fmt.Sprintf(` ORDER BY hashtext(ctid::text || '%d') LIMIT %d`, c.seed, many) + `) AS asked,
				LATERAL (SELECT count(*) AS rows, sum(` + identity + `) AS seen FROM ONLY ` + i.Table.sql() + i.plainWhere("("+condition+") IS TRUE", col.answerable()) + `) AS table_answer,
				LATERAL (SELECT count(*) AS entries, sum(` + identity + `) AS given FROM ONLY ` + i.Table.sql() + i.where(condition, col.answerable()) + `) AS index_answer`
			sql, err := c.choose(ctx, i, 2, sql)
			if err != nil {
				return nil, false, err
			}
			if sql == "" {
				continue
			}
			var missing, extra, wrong, asked int64
			if err := c.conn.QueryRow(ctx, sql).Scan(&missing, &extra, &wrong, &asked); err != nil {
				return nil, false, err
			}
			for _, d := range answers(missing, extra, wrong, asked, "questions ("+o.Name+") were asked") {
				if !slices.ContainsFunc(found, func(other difference) bool { return other.kind == d.kind }) {
					found = append(found, d)
				}
			}
		}
	}
	return found, false, nil
}
