package guard

import (
	"fmt"
	"slices"
	"strings"

	"pg_integrity_exporter/internal/maintenance/script"
)

// step is what is committed together: statements in one transaction, or one
// statement that the server refuses in a transaction.
type step struct {
	transactional bool
	statements    []script.Statement
}

// whole says that the step works on every table.
func (s step) whole() bool {
	return slices.ContainsFunc(s.statements, func(s script.Statement) bool { return s.Class.Whole })
}

// harmless says that the step changes nothing that must be taken back.
func (s step) harmless() bool {
	return !slices.ContainsFunc(s.statements, func(statement script.Statement) bool {
		c := statement.Class
		return c.Command != "SET" && c.Command != "RESET" && c.Command != "ANALYZE" && c.Command != "VACUUM" && c.Command != "VACUUM FULL" &&
			c.Command != "CLUSTER" && c.Command != "REINDEX" && c.Command != "REINDEX CONCURRENTLY" &&
			!strings.HasSuffix(c.Command, "INDEX CONCURRENTLY") && c.Command != "ALTER SYSTEM"
	})
}

// plan divides a script into steps. BEGIN and COMMIT of the script are left
// out: the guard commits everything together, when it is verified.
func plan(statements []script.Statement, settings Settings) ([]step, error) {
	var steps []step
	block := false
	for _, s := range statements {
		switch s.Class.Control {
		case script.Begin:
			block = true
			continue
		case script.Commit:
			block = false
			continue
		case script.Rollback:
			return nil, fmt.Errorf("line %d: the script rolls back by itself: take ROLLBACK out, --dry-run shows what it would do", s.Line)
		case script.TwoPhase:
			return nil, fmt.Errorf("line %d: PREPARE TRANSACTION leaves a transaction open that the guard cannot verify", s.Line)
		case script.Savepoint, script.NoControl:
		}
		if s.Class.NonTransactional && block {
			return nil, fmt.Errorf("line %d: %s cannot run between BEGIN and COMMIT", s.Line, s.Class.Command)
		}
		last := len(steps) - 1
		if !s.Class.NonTransactional && last >= 0 && steps[last].transactional {
			steps[last].statements = append(steps[last].statements, s)
			continue
		}
		steps = append(steps, step{transactional: !s.Class.NonTransactional, statements: []script.Statement{s}})
	}
	for i, s := range steps {
		if i < len(steps)-1 && !s.harmless() && !settings.allows("split") {
			next := steps[i+1].statements[0]
			return nil, fmt.Errorf("line %d: %s cannot run in a transaction, so what stands before it would have to be committed first and could not be rolled back any more: put it at the start or in a script of its own, or accept that with --allow=split", next.Line, next.Class.Command)
		}
	}
	return steps, nil
}

// everyKind stands for all kinds of facts: a command can change anything.
const everyKind = "*"

// kindsOf lists the kinds of facts that a run can change outside of a
// transaction. setval() is never rolled back by the server.
func kindsOf(steps []step, task Task) []string {
	if task == TaskCommand {
		return []string{everyKind}
	}
	kinds := []string{"sequence"}
	for _, s := range steps {
		if s.transactional {
			continue
		}
		switch command := s.statements[0].Class.Command; {
		case command == "ALTER SYSTEM":
			kinds = append(kinds, "system_setting")
		case strings.HasPrefix(command, "ALTER TABLE"):
			kinds = append(kinds, "partition", "constraint")
		default:
			kinds = append(kinds, "index")
		}
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// mine says whether the run can have changed facts of a kind.
func (r *run) mine(kind string) bool {
	return slices.Contains(r.kinds, kind) || slices.Contains(r.kinds, everyKind)
}

// undoOf says how a statement is taken back.
func undoOf(s script.Statement) string {
	c := s.Class
	switch {
	case !c.NonTransactional:
		return "the transaction is rolled back"
	case strings.HasPrefix(c.Command, "CREATE") && strings.HasSuffix(c.Command, "INDEX CONCURRENTLY"):
		return "the index is dropped"
	case c.Command == "DROP INDEX CONCURRENTLY":
		return "the index is made again"
	case c.Command == "ALTER SYSTEM":
		return "the setting gets its old value"
	case c.Command == "REINDEX CONCURRENTLY":
		return "invalid indexes that are left are dropped"
	case c.KeepsRows:
		return "nothing to take back: the rows stay as they are"
	case c.NoUndo:
		return "only by recovery to the restore point"
	}
	return "what it made is dropped"
}
