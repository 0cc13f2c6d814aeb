package check

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// function is one function of the extension amcheck in the session's database.
type function struct {
	Schema    string
	Name      string
	Arguments int
	Signature string
	Granted   bool
}

// amcheckSQL lists the functions that belong to the extension, wherever it was
// installed; a function of the same name that somebody else made is not one of
// them. ACCESS SHARE on catalogues, no privilege.
const amcheckSQL = `SELECT n.nspname::text, p.proname::text, p.pronargs::int,
	p.oid::regprocedure::text, has_function_privilege(p.oid, 'EXECUTE')
	FROM pg_extension e
	JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
	JOIN pg_proc p ON p.oid = d.objid
	JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE e.extname = 'amcheck'`

// amcheck finds the function with the most arguments that the role may call.
// Without one the check is skipped, with what to do as the reason.
func (s *session) amcheck(ctx context.Context, name string) (function, bool, error) {
	rows, err := s.conn.Query(ctx, amcheckSQL)
	if err != nil {
		return function{}, false, fmt.Errorf("looking for amcheck: %w", err)
	}
	functions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[function])
	if err != nil {
		return function{}, false, fmt.Errorf("looking for amcheck: %w", err)
	}
	if len(functions) == 0 {
		s.skipf("the extension amcheck is missing: run CREATE EXTENSION amcheck in database %s as a superuser, then docs/grants/grants.sql", quote(s.database))
		return function{}, false, nil
	}
	functions = slices.DeleteFunc(functions, func(f function) bool { return f.Name != name })
	granted := slices.DeleteFunc(slices.Clone(functions), func(f function) bool { return !f.Granted })
	if len(granted) > 0 {
		return slices.MaxFunc(granted, func(a, b function) int { return a.Arguments - b.Arguments }), true, nil
	}
	if len(functions) > 0 {
		s.skipf("the role may not call %s: GRANT EXECUTE ON FUNCTION %s TO %s in database %s, or run docs/grants/grants.sql there",
			name, functions[0].Signature, quote(s.conn.Facts.User), quote(s.database))
	} else {
		s.skipf("amcheck has no function %s: run ALTER EXTENSION amcheck UPDATE in database %s", name, quote(s.database))
	}
	return function{}, false, nil
}

// call is the function's name as SQL has it.
func (f function) call() string { return pgx.Identifier{f.Schema, f.Name}.Sanitize() }

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
