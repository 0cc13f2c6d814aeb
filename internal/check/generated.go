package check

import (
	"context"
	"time"
)

// generatedCheck computes stored generated columns again with today's
// functions, and compares.
func generatedCheck() Check {
	return Check{
		Name:     "generated",
		Question: "Does every stored generated column hold what its expression gives?",
		Kinds:    []Kind{{ClassDataRule, SeverityCritical}},
		Interval: 24 * time.Hour,
		Needs:    "SELECT on the tables and USAGE on their schemas (pg_read_all_data, 14+); BYPASSRLS where row security applies; EXECUTE on the functions of the expressions",
		Locks:    "ACCESS SHARE on one table at a time",
		Standby:  true,
		run:      runGenerated,
	}
}

// generatedSQL lists stored generated columns as rules of rows. Values are
// compared as text, which every type has.
const generatedSQL = `SELECT a.attrelid, 'generated column', a.attname::text,
	format('(%I)::text IS DISTINCT FROM ((%s)::%s)::text', a.attname, pg_get_expr(d.adbin, d.adrelid), format_type(a.atttypid, a.atttypmod)), ''
	FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	WHERE a.attgenerated = 's' AND NOT a.attisdropped AND a.attrelid = ANY ($1) ORDER BY a.attrelid, a.attnum`

func runGenerated(ctx context.Context, s *session) error {
	schemas, names := s.wanted()
	tables, err := s.list(ctx, userTablesSQL, schemas, names)
	if err != nil {
		return err
	}
	columns, err := listPromises[rowRule](ctx, s, "generated columns", generatedSQL, tables, nil)
	if err != nil {
		return err
	}
	primary, err := s.primaryKeys(ctx, tables)
	if err != nil {
		return err
	}
	rules := make(map[uint32][]rowRule)
	for _, c := range columns {
		rules[c.Table] = append(rules[c.Table], c)
	}
	verify, err := s.verifier(ctx)
	if err != nil {
		return err
	}
	if err := s.set(ctx, logicalSettings); err != nil {
		return err
	}
	s.result.TotalBytes = 0 // only tables with such columns are read
	parts := s.recallParts(ctx)
	return s.each(ctx, len(tables), func(i int) error {
		t := tables[i]
		if len(rules[t.OID]) == 0 {
			s.looked(t.Name)
			return nil
		}
		s.result.TotalBytes += int64(t.Pages) * int64(s.conn.Facts.BlockSize)
		if damaged, err := s.leaveAlone(ctx, t, verify); err != nil || damaged {
			return err
		}
		part := parts.of(s, t)
		blocks, err := s.blocks(ctx, t)
		if err != nil {
			return err
		}
		if _, err := s.rowRules(ctx, t, rules[t.OID], primary[t.OID], part, blocks); err != nil {
			return err
		}
		s.lookedAtPart(t, part, blocks)
		return parts.done(ctx, s, t, part)
	}, func(i int) string { return tables[i].Name.String() })
}

// primaryKeys gives the columns of the primary keys of tables.
func (s *session) primaryKeys(ctx context.Context, tables []table) (map[uint32][]string, error) {
	list, err := listPromises[struct {
		Table   uint32
		Columns []string
	}](ctx, s, "primary keys", primarySQL, tables, nil)
	if err != nil {
		return nil, err
	}
	primary := make(map[uint32][]string, len(list))
	for _, p := range list {
		primary[p.Table] = p.Columns
	}
	return primary, nil
}

// lookedAtPart counts a table that was looked at completely, or says which part
// of it was.
func (s *session) lookedAtPart(t table, p part, blocks uint32) {
	if p.Of == 1 {
		s.looked(t.Name)
		return
	}
	s.partlyf("%s is large: part %d of %d was looked at, and %d pages chosen at random of all of it (%s; a single wrong row is seen with probability %.0f %%, and certainly within %d runs; --deep or --relation looks at everything)",
		t.Name, p.Number+1, p.Of, p.sample(blocks).pages(blocks), p.confidence(blocks), 100/float64(p.Of), p.Of)
}
