package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// documentVersion is the version of the JSON document.
const documentVersion = 1

// Document is what `check` found in one server: the contract's JSON.
type Document struct {
	Version       int       `json:"version"`
	Target        string    `json:"target"`
	ServerVersion int       `json:"server_version,omitempty"`
	Started       time.Time `json:"started"`
	Finished      time.Time `json:"finished"`
	Checks        []Result  `json:"checks"`
	Findings      []Finding `json:"findings"`
	// Idle are the checks that had nothing to do, and why.
	Idle map[string]string `json:"-"`
	// Conclusion says in one sentence why a server that is down will not start,
	// and what is safe to do first; only of check --offline.
	Conclusion string `json:"conclusion,omitempty"`
}

// Options say what a sweep looks at.
type Options struct {
	// Checks are the checks to run, in the order of All.
	Checks []Check
	// Named are those of them that a person asked for by name.
	Named []string
	// Databases are the databases to look at; empty is every one that the role
	// may connect to and Selects selects; nil selects all.
	Databases []string
	Selects   func(datname string) bool
	// Relations limits the sweep to these; each must exist in one of the
	// databases.
	Relations []RelationName
	// Deep, RateLimit, Share: see Scope.
	Deep      bool
	RateLimit int64
	Share     float64
	// Jobs is how many relations are looked at in parallel: of as many databases, and
	// of several in each when there are fewer databases.
	Jobs int
	// Memory is what checks remember of earlier runs; nil is nothing.
	Memory Memory
	// Rules are what the configuration says of the data.
	Rules Rules
	// Accept: see Scope.
	Accept *Acceptance
	// Progress is told of each check that ends, and about once a second of each
	// that runs, which has no outcome yet; nil is nobody.
	Progress func(Result)
	Logger   *slog.Logger
}

// Sweep runs checks over a server, in each database in the order of All. What
// it cannot look at is in the document; the error says that there is nothing to
// look at, because a database or relation that was asked for does not exist.
func Sweep(ctx context.Context, target *pg.Target, options Options) (Document, error) {
	document := Document{
		Version: documentVersion, Target: target.Name(), Started: time.Now().UTC(), Checks: []Result{}, Findings: []Finding{},
	}
	databases, version, err := plan(ctx, target, options)
	document.ServerVersion = version
	if _, ok := errors.AsType[*pg.UnusableError](err); ok { // in no database: the checks say so
		databases, err = options.Databases, nil
		if len(databases) == 0 {
			databases = []string{target.Database()}
		}
	}
	var missing *MissingError
	switch {
	case errors.As(err, &missing):
		return document, err
	case err != nil:
		document.unreachable(options, err)
		document.finish()
		return document, nil
	}
	var mu sync.Mutex
	var progress func(Result)
	if options.Progress != nil {
		progress = func(r Result) {
			mu.Lock()
			defer mu.Unlock()
			options.Progress(r)
		}
	}
	run := func(database string, checks []Check) {
		scope := Scope{
			Relations: options.Relations, Deep: options.Deep, RateLimit: options.RateLimit, Share: options.Share, Jobs: max(1, options.Jobs/max(1, len(databases))),
			Heaps: NewHeaps(), Reported: NewReported(), Memory: options.Memory, Rules: options.Rules, Accept: options.Accept, Progress: progress,
		}
		for _, c := range checks {
			if reason := c.Idle(scope, database); reason != "" {
				mu.Lock()
				document.idle(c.Name, reason)
				mu.Unlock()
				continue
			}
			result := Run(ctx, target, database, c, scope, options.Logger)
			mu.Lock()
			document.Checks = append(document.Checks, result)
			if options.Progress != nil {
				options.Progress(result)
			}
			mu.Unlock()
		}
	}
	ofServer, ofDatabases := split(options.Checks)
	if len(options.Relations) == 0 && len(databases) > 0 {
		run(databases[0], ofServer)
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, max(1, options.Jobs))
	for _, database := range databases {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			run(database, ofDatabases)
		})
	}
	running.Wait()
	if len(options.Databases) == 0 && len(options.Relations) == 0 {
		document.addNoMatch(options, databases)
	}
	document.skipNamed(options.Named)
	document.finish()
	return document, nil
}

// idle notes that a check had nothing to do.
func (d *Document) idle(name, reason string) {
	if d.Idle == nil {
		d.Idle = make(map[string]string)
	}
	d.Idle[name] = reason
}

// skipNamed says of checks that were asked for by name, and had nothing to do in
// any database, why.
func (d *Document) skipNamed(names []string) {
	for name, reason := range d.Idle {
		if slices.ContainsFunc(d.Checks, func(r Result) bool { return r.Check == name }) {
			delete(d.Idle, name)
			continue
		}
		if slices.Contains(names, name) {
			d.Checks = append(d.Checks, Result{Check: name, Outcome: OutcomeSkipped, Reason: reason})
		}
	}
}

// addNoMatch says of rules whose databases do not exist that they were not
// evaluated.
func (d *Document) addNoMatch(options Options, databases []string) {
	for _, c := range options.Checks {
		for _, rule := range options.Rules.NoMatch(c.Name, databases) {
			d.Checks = append(d.Checks, Result{Check: c.Name, Outcome: OutcomeFailed, Reason: rule + " matches no database that can be connected to"})
		}
	}
}

// split tells the checks of the whole server from those of one database.
func split(checks []Check) (ofServer, ofDatabases []Check) {
	for _, c := range checks {
		if c.Server {
			ofServer = append(ofServer, c)
		} else {
			ofDatabases = append(ofDatabases, c)
		}
	}
	return ofServer, ofDatabases
}

// unreachable says of every check that it could not run.
func (d *Document) unreachable(options Options, err error) {
	for _, c := range options.Checks {
		d.Checks = append(d.Checks, Result{
			Check: c.Name, Outcome: OutcomeFailed,
			Reason: oneLine(fmt.Sprintf("%v (%s)", err, pg.FailureOf(err).Advice())),
		})
	}
}

func (d *Document) finish() {
	d.Finished = time.Now().UTC()
	slices.SortStableFunc(d.Checks, func(a, b Result) int { return cmp.Compare(a.Database, b.Database) })
	for _, result := range d.Checks {
		d.Findings = append(d.Findings, result.Findings...)
	}
	rank := map[Severity]int{SeverityCritical: 0, SeverityWarning: 1, SeverityInfo: 2}
	slices.SortStableFunc(d.Findings, func(a, b Finding) int { return rank[a.Severity] - rank[b.Severity] })
}

// The exit codes of `check`.
const (
	ExitClean      = 0
	ExitFindings   = 1
	ExitIncomplete = 2
)

// ExitCode is the exit code that the document deserves.
func (d *Document) ExitCode() int {
	for _, f := range d.Findings {
		if f.Severity != SeverityInfo {
			return ExitFindings
		}
	}
	for _, c := range d.Checks {
		if c.Outcome == OutcomeFailed || c.Outcome == OutcomeSkipped {
			return ExitIncomplete
		}
	}
	return ExitClean
}

// MissingError says that something that was asked for does not exist.
type MissingError struct {
	// Kind is "database" or "relation".
	Kind string
	// Name is what was asked for.
	Name string
	// Similar are existing names that may have been meant.
	Similar []string
}

// Error names what is missing and what may have been meant.
func (e *MissingError) Error() string {
	text := fmt.Sprintf("there is no %s %s", e.Kind, e.Name)
	if len(e.Similar) > 0 {
		text += "; did you mean " + strings.Join(e.Similar, ", ") + "?"
	}
	return text
}

// plan finds the databases to look at.
func plan(ctx context.Context, target *pg.Target, options Options) (databases []string, version int, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var all []pg.Database
	err = target.AskAny(ctx, planPurpose(), func(conn *pg.Conn) error {
		version = conn.Facts.VersionNum
		all, err = conn.Databases(ctx)
		return err
	})
	if err != nil {
		return nil, version, err
	}
	var names []string
	lost := false // pg_database has lost rows: the checks tell
	for _, database := range all {
		lost = lost || database.Lost
		names = append(names, database.Name)
		if database.Connectable && options.selects(database.Name) {
			databases = append(databases, database.Name)
		}
	}
	if len(databases) == 0 && len(options.Databases) == 0 && options.Selects != nil {
		return nil, version, &MissingError{Kind: "database", Name: "that databases.include and databases.exclude of the configuration leave", Similar: names}
	}
	for _, name := range options.Databases {
		if !slices.Contains(names, name) && !lost {
			return nil, version, &MissingError{Kind: "database", Name: name, Similar: names}
		}
		if !slices.Contains(databases, name) {
			databases = append(databases, name) // its checks will say why not
		}
	}
	if len(options.Relations) == 0 {
		return databases, version, nil
	}
	databases, err = withRelations(ctx, target, databases, options.Relations)
	return databases, version, err
}

// selects says whether a database is to be looked at.
func (o Options) selects(datname string) bool {
	if len(o.Databases) > 0 {
		return slices.Contains(o.Databases, datname)
	}
	return o.Selects == nil || o.Selects(datname)
}

func planPurpose() pg.Purpose {
	return pg.Purpose{Name: "check", StatementTimeout: connectTimeout, ConnectTimeout: connectTimeout / 3, LockTimeout: lockTimeout, CancelOnServer: true, Pooler: true}
}

// withRelations gives the databases that have one of the relations; each of the
// relations must be in one.
func withRelations(ctx context.Context, target *pg.Target, databases []string, relations []RelationName) ([]string, error) {
	found := make(map[RelationName]bool)
	var having, similar []string
	for _, database := range databases {
		names, close, err := relationsOf(ctx, target, database, relations)
		if err != nil {
			return nil, err
		}
		similar = append(similar, close...)
		if len(names) > 0 {
			having = append(having, database)
		}
		for _, name := range names {
			found[name] = true
		}
	}
	for _, name := range relations {
		if !found[name] {
			slices.Sort(similar)
			similar = slices.Compact(similar)
			return nil, &MissingError{Kind: "relation", Name: name.String(), Similar: similar[:min(5, len(similar))]}
		}
	}
	return having, nil
}

// relationsOf gives those of the relations that a database has, and names that
// are alike.
func relationsOf(ctx context.Context, target *pg.Target, database string, relations []RelationName) (found []RelationName, similar []string, err error) {
	conn, err := target.Connect(ctx, database, planPurpose())
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	for _, r := range relations {
		rows, err := conn.Query(ctx, `SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE (n.nspname = $1 AND c.relname = $2) OR (c.relkind IN ('r', 'm', 'i') AND c.relname ILIKE '%' || $2 || '%') LIMIT 100`, r.Schema, r.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("looking for %s: %w", r, err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowToStructByPos[RelationName])
		if err != nil {
			return nil, nil, fmt.Errorf("looking for %s: %w", r, err)
		}
		for _, name := range names {
			if name == r {
				found = append(found, name)
			} else {
				similar = append(similar, name.String())
			}
		}
	}
	return found, similar, nil
}
