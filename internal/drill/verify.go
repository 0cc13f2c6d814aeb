package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/offline"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
)

// Query is a smoke query or an invariant of the user.
type Query struct {
	Name     string
	Database string
	SQL      string
	// Expect is rows (at least one), none, or the text of the only value.
	Expect string
}

const (
	// queryTimeout bounds one query of the user.
	queryTimeout = 10 * time.Minute
	// prepareTimeout bounds what is done in one database before the checks.
	prepareTimeout = time.Minute
)

// connect opens a session on the scratch server in which nothing fires:
// triggers and rules of the user, event triggers, libraries.
func (d *drill) connect(ctx context.Context, database string, writable bool) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	config, err := pgx.ParseConfig(d.server.dsn(d.server.role, database))
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["session_replication_role"] = "replica"
	config.RuntimeParams["application_name"] = pg.ApplicationName + " drill"
	config.RuntimeParams["default_transaction_read_only"] = "on"
	if writable {
		config.RuntimeParams["default_transaction_read_only"] = "off"
	}
	config.RuntimeParams["statement_timeout"] = strconv.FormatInt(queryTimeout.Milliseconds(), 10)
	return pgx.ConnectConfig(ctx, config)
}

// extensions are what the checks need in each database. The scratch server is
// the only place where they are ever made.
var extensions = []string{"amcheck", "pg_visibility"}

// prepareChecks makes the extensions that checks need, where the restored
// databases do not have them.
func (d *drill) prepareChecks(ctx context.Context, database string) error {
	conn, err := d.connect(ctx, database, true)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it is done
	var always int
	// These event triggers fire whatever the session says (before version 17).
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')").Scan(&always); err != nil {
		return err
	}
	if always > 0 && d.major < 17 {
		return errors.New("event triggers that always fire keep extensions from being made")
	}
	for _, name := range extensions {
		var wanted bool
		const sql = `SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1 AND installed_version IS NULL)`
		if err := conn.QueryRow(ctx, sql, name).Scan(&wanted); err != nil {
			return err
		}
		if !wanted {
			continue
		}
		if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS pgintegrity_drill; CREATE EXTENSION "+name+" SCHEMA pgintegrity_drill", pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return nil
}

// aboutData are the checks that look at data: what they can say of a scratch
// server is as true as of a real one. Settings, drift and leftovers are not.
func aboutData() []check.Check {
	return slices.DeleteFunc(check.All(), func(c check.Check) bool {
		return !slices.ContainsFunc(c.Kinds, func(k check.Kind) bool {
			return k.Class == check.ClassCorruption || k.Class == check.ClassDataRule
		})
	})
}

// check runs the physical and logical checks on the recovered databases.
func (d *drill) check(ctx context.Context, report *recovery.Report) error {
	for _, database := range d.server.said.Databases {
		d.prepareDatabase(ctx, database, report)
	}
	target, err := d.server.target()
	if err != nil {
		return err
	}
	// Nobody else uses this server.
	options := check.Options{Checks: aboutData(), Deep: true, RateLimit: d.options.RateLimit, Jobs: runtime.GOMAXPROCS(0), Rules: d.options.Rules, Logger: d.logger}
	// Fingerprints of sealed data, and when views were last refreshed, are of the living server.
	options.Rules.Sealed, options.Rules.MaterializedViews = nil, nil
	document, err := check.Sweep(ctx, target, options)
	if err != nil {
		return fmt.Errorf("checking the restored databases: %w", err)
	}
	keepAboutData(report, document)
	return ctx.Err()
}

// readFiles looks at the files of a cluster that has recovered and lets nobody in.
func (d *drill) readFiles(ctx context.Context, report *recovery.Report) error {
	d.server.stop()
	document, err := offline.Run(ctx, offline.Options{Directory: d.scratch.data(), Only: []string{"page"}, Logger: d.logger})
	if err != nil {
		return fmt.Errorf("looking at the restored files: %w", err)
	}
	keepAboutData(report, document)
	return nil
}

func keepAboutData(report *recovery.Report, document check.Document) {
	report.Checks = document.Checks
	for _, f := range document.Findings {
		if f.Class == check.ClassCorruption || f.Class == check.ClassDataRule {
			report.Findings = append(report.Findings, f)
		}
	}
}

// prepareDatabase makes ready what the checks need in a database, and looks for
// libraries, unless its catalogues are a trap: what a server process loops in keeps
// the drill for a moment only, and the checks leave it alone.
func (d *drill) prepareDatabase(ctx context.Context, database string, report *recovery.Report) {
	limited, cancel := context.WithTimeoutCause(ctx, prepareTimeout, fmt.Errorf("it does not answer within %s", prepareTimeout))
	defer cancel()
	if err := because(limited, d.prepareChecks(limited, database)); err != nil {
		report.Notes = append(report.Notes, fmt.Sprintf("%s: checks that need extensions cannot run: %s", database, pg.Message(err)))
	}
	problems := d.libraries(limited, database)
	if limited.Err() != nil && ctx.Err() == nil {
		d.silent[database] = true
		problems = []recovery.Problem{{Kind: recovery.ProblemUnreadable, Object: database, Message: context.Cause(limited).Error()}}
	}
	report.Problems = append(report.Problems, problems...)
}

// libraries reports functions whose library this machine does not have: the
// restored database looks well until somebody calls one.
func (d *drill) libraries(ctx context.Context, database string) []recovery.Problem {
	conn, err := d.connect(ctx, database, false)
	if err != nil {
		return []recovery.Problem{{Kind: recovery.ProblemUnreadable, Object: database, Message: "no connection is possible: " + pg.Message(err)}}
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only asked
	rows, err := conn.Query(ctx, `SELECT p.probin, min(p.proname::text), min(coalesce(e.extname::text, ''))
		FROM pg_proc p LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		LEFT JOIN pg_extension e ON e.oid = d.refobjid
		WHERE p.prolang = (SELECT oid FROM pg_language WHERE lanname = 'c') AND p.probin IS NOT NULL GROUP BY p.probin`)
	if err != nil {
		return []recovery.Problem{{Kind: recovery.ProblemUnreadable, Object: database, Message: "its functions cannot be listed: " + pg.Message(err)}}
	}
	type library struct{ Path, Function, Extension string }
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[library])
	if err != nil {
		return []recovery.Problem{{Kind: recovery.ProblemUnreadable, Object: database, Message: "its functions cannot be listed: " + pg.Message(err)}}
	}
	var directory string
	if err := conn.QueryRow(ctx, "SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'").Scan(&directory); err != nil {
		return nil
	}
	var problems []recovery.Problem
	for _, l := range all {
		path := strings.Replace(l.Path, "$libdir", directory, 1)
		if !strings.Contains(path, "/") {
			path = filepath.Join(directory, path)
		}
		if exists(path) || exists(path+".so") || exists(path+".dylib") {
			continue
		}
		of := "function " + l.Function
		if l.Extension != "" {
			of = "extension " + l.Extension
		}
		problems = append(problems, recovery.Problem{
			Kind: recovery.ProblemMissing, Object: database,
			Message: fmt.Sprintf("the library %s of %s is not installed on this machine: whoever recovers here needs its package", l.Path, of),
		})
	}
	return problems
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// query runs the user's queries, each in a read-only transaction of its own
// session.
func (d *drill) query(ctx context.Context) []recovery.QueryReport {
	var reports []recovery.QueryReport
	for _, q := range d.options.Queries {
		began := time.Now()
		message, ok := d.ask(ctx, q)
		reports = append(reports, recovery.QueryReport{
			Name: q.Name, Database: q.Database, OK: ok, Message: message, Seconds: time.Since(began).Seconds(),
		})
	}
	return reports
}

// ask runs one query and compares its answer with what is expected.
func (d *drill) ask(ctx context.Context, q Query) (message string, ok bool) {
	if d.silent[q.Database] {
		return "not asked: the database does not answer", false
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout+connectTimeout) // also when the server process heeds no cancel
	defer cancel()
	conn, err := d.connect(ctx, q.Database, false)
	if err != nil {
		return pg.Message(err), false
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only asked
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return pg.Message(err), false
	}
	rows, err := tx.Query(ctx, q.SQL, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return pg.Message(err), false
	}
	defer rows.Close()
	count, first := 0, ""
	for rows.Next() {
		if raw := rows.RawValues(); count == 0 && len(raw) > 0 {
			first = string(raw[0])
		}
		count++
	}
	if err := rows.Err(); err != nil {
		return pg.Message(err), false
	}
	switch q.Expect {
	case "none":
		if count > 0 {
			return fmt.Sprintf("%d rows instead of none; the first begins with %q", count, first), false
		}
	case "", "rows":
		if count == 0 {
			return "no rows", false
		}
	default:
		if count != 1 || first != q.Expect {
			return fmt.Sprintf("%d rows, the first value is %q instead of %q", count, first, q.Expect), false
		}
	}
	return "", true
}
