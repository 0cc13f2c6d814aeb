// Package activity recognises maintenance as it happens, without being told:
// from the progress views, from the statements of pg_stat_activity, and from
// what changed in the catalogue between two looks. What was touched is checked
// next.
package activity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/schedule"
	"pg_integrity_exporter/internal/secret"
	"pg_integrity_exporter/internal/state"
)

// Kind is a kind of maintenance; the values are the label kind.
type Kind string

// The kinds of maintenance.
const (
	AlterSystem     Kind = "alter_system"
	AlterTable      Kind = "alter_table"
	Analyze         Kind = "analyze"
	BaseBackup      Kind = "base_backup"
	Cluster         Kind = "cluster"
	Copy            Kind = "copy"
	CreateIndex     Kind = "create_index"
	DisabledTrigger Kind = "disabled_trigger"
	Drop            Kind = "drop"
	Dump            Kind = "dump"
	Extension       Kind = "extension"
	Guarded         Kind = "guard"
	Refresh         Kind = "refresh"
	Reindex         Kind = "reindex"
	Repack          Kind = "repack"
	Restore         Kind = "restore"
	Rewrite         Kind = "rewrite" // new files, and nobody saw the statement
	Truncate        Kind = "truncate"
	Upgrade         Kind = "upgrade"
	Vacuum          Kind = "vacuum"
	VacuumFull      Kind = "vacuum_full"
)

// Kinds lists every Kind, in the order in which they are exported.
func Kinds() []Kind {
	return []Kind{
		AlterSystem, AlterTable, Analyze, BaseBackup, Cluster, Copy, CreateIndex, DisabledTrigger, Drop, Dump, Extension, Guarded,
		Refresh, Reindex, Repack, Restore, Rewrite, Truncate, Upgrade, Vacuum, VacuumFull,
	}
}

// Operation is one maintenance that was seen.
type Operation struct {
	Kind     Kind
	Database string
	// Relation is what it works on, as far as it is known.
	Relation check.RelationName
	// By is who does it: role and application.
	By      string
	Started time.Time
	// Fraction is how far it is, from 0 to 1; negative is not known.
	Fraction float64
	// Phase is the server's word for what it does.
	Phase string
	// Statement is the beginning of its text.
	Statement string
	// Blocked is the largest number of sessions that were seen waiting for it,
	// BlockedFor how long the longest has waited.
	Blocked    int
	BlockedFor time.Duration

	pid int
	oid uint32
	run string // of the guard
	// worked are what the sessions of a program were seen to work on.
	worked []uint32
	// source is where it is known from; empty is pg_stat_activity.
	source string
}

// with adds what was known of the same operation before.
func (o Operation) with(old Operation) Operation {
	o.Blocked, o.BlockedFor = max(o.Blocked, old.Blocked), max(o.BlockedFor, old.BlockedFor)
	if o.Relation.Name == "" {
		o.Relation = old.Relation
	}
	if o.oid == 0 {
		o.oid = old.oid
	}
	for _, oid := range old.worked {
		if !slices.Contains(o.worked, oid) && len(o.worked) < maxOperations {
			o.worked = append(o.worked, oid)
		}
	}
	if !old.Started.IsZero() && old.Started.Before(o.Started) {
		o.Started = old.Started
	}
	return o
}

// EstimatedEnd is when it will be done if it goes on like this; zero is not
// known.
func (o Operation) EstimatedEnd(now time.Time) time.Time {
	if o.Fraction <= 0.01 || o.Fraction > 1 {
		return time.Time{}
	}
	return o.Started.Add(time.Duration(float64(now.Sub(o.Started)) / o.Fraction))
}

// Status is what the metrics show.
type Status struct {
	Running []Operation
	// Seen counts the operations by kind since the exporter started.
	Seen map[Kind]uint64
	// Window is the status of the maintenance windows.
	Window window.Status
	// Guard counts the runs of the guard, Unfinished those that were interrupted,
	// Owed those that were not rolled back and that nobody has settled.
	Guard      map[guard.Task]map[guard.Outcome]uint64
	Unfinished int
	Owed       int
	// Disks are those to which the server writes, when they are on this machine.
	Disks []Disk
}

// Suspects takes relations that must be checked next.
type Suspects interface {
	Touched(suspects ...schedule.Suspect)
}

// Settings say how maintenance is recognised.
type Settings struct {
	Enabled     bool
	Interval    time.Duration
	Schedules   []window.Schedule
	Marker      string
	MarkerLimit time.Duration
}

// Watcher looks at one target.
type Watcher struct {
	target   *pg.Target
	files    *state.Files
	journals *guard.Counter
	suspects Suspects
	settings Settings
	logger   *slog.Logger
	lane     *pg.Lane
	windows  func() ([]window.Window, error)

	mu      sync.Mutex
	running map[string]Operation
	seen    map[Kind]uint64
	logged  []held // of the server's log, since the last look
	disks   []Disk

	held   []held            // what may turn out to be known already
	told   []held            // what was told lately
	runs   map[string]held   // of the guard that ended
	guards map[int]time.Time // processes of the guard's sessions, and when they were seen last

	places     []place // where the server writes
	placesRead time.Time

	before        *catalogue        // the last look
	filenodes     map[uint32]uint32 // the files of tables and indexes, by oid
	filenodesRead time.Time
	ready         bool // the first look is over; guarded by mu
	stop          context.CancelFunc
	done          sync.WaitGroup
}

// New makes a watcher, which looks through lane. Start runs it.
func New(target *pg.Target, lane *pg.Lane, files *state.Files, suspects Suspects, settings Settings, logger *slog.Logger) *Watcher {
	return &Watcher{
		target: target, files: files, journals: guard.NewCounter(files), windows: window.Lister(files), suspects: suspects, settings: settings, logger: logger,
		lane:    lane.As("maintenance"),
		running: make(map[string]Operation), seen: make(map[Kind]uint64), guards: make(map[int]time.Time), runs: make(map[string]held),
	}
}

const (
	// lookTimeout bounds one look.
	lookTimeout = 5 * time.Second
	// maxOperations bounds what is remembered of one look.
	maxOperations = 100
	// maxRelations bounds the relations whose files are compared.
	maxRelations = 50000
	// maxChanged bounds what one comparison tells: more is a restore or a rename
	// of everything, told once.
	maxChanged = 50
)

// Start begins to look until Stop.
func (w *Watcher) Start() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	if !w.settings.Enabled {
		return
	}
	w.remember()
	w.done.Go(func() {
		ticker := time.NewTicker(w.settings.Interval)
		defer ticker.Stop()
		for {
			if err := w.look(ctx); err != nil && ctx.Err() == nil {
				w.logger.Debug("maintenance cannot be looked for", "err", err)
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// Stop ends the watcher.
func (w *Watcher) Stop() {
	w.stop()
	w.done.Wait()
}

// Status is what is known now.
func (w *Watcher) Status() Status {
	s := Status{Seen: make(map[Kind]uint64)}
	w.mu.Lock()
	for _, o := range w.running {
		s.Running = append(s.Running, o)
	}
	maps.Copy(s.Seen, w.seen)
	s.Disks = w.disks
	w.mu.Unlock()
	slices.SortFunc(s.Running, func(a, b Operation) int { return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.pid, b.pid)) })
	windows, err := w.windows()
	if err != nil {
		w.logger.Warn("a maintenance window cannot be read", "err", err)
	}
	s.Window = window.LookAt(windows, w.settings.Schedules, time.Now())
	if s.Guard, s.Owed, err = w.journals.Counts(); err != nil {
		w.logger.Warn("the runs of the guard cannot be read", "err", err)
	}
	for _, outcomes := range s.Guard {
		s.Unfinished += int(outcomes[guard.OutcomeInterrupted])
	}
	return s
}

// activitySQL lists what the sessions of other programs do, with what the
// progress views say of it and who waits for it. Views that a version does not
// have are left out. pg_monitor sees all sessions. $1 is the marker of windows.
func activitySQL(facts pg.Facts) string {
	progress := []string{
		`SELECT pid, relid, phase, CASE WHEN heap_blks_total > 0 THEN heap_blks_scanned::float8 / heap_blks_total END FROM pg_stat_progress_vacuum`,
		`SELECT pid, relid, phase, CASE WHEN heap_blks_total > 0 THEN heap_blks_scanned::float8 / heap_blks_total END FROM pg_stat_progress_cluster`,
		`SELECT pid, relid, phase, CASE WHEN blocks_total > 0 THEN blocks_done::float8 / blocks_total END FROM pg_stat_progress_create_index`,
		`SELECT pid, relid, phase, CASE WHEN sample_blks_total > 0 THEN sample_blks_scanned::float8 / sample_blks_total END FROM pg_stat_progress_analyze`,
		`SELECT pid, 0::oid, phase, CASE WHEN backup_total > 0 THEN backup_streamed::float8 / backup_total END FROM pg_stat_progress_basebackup`,
	}
	if facts.Major() >= 14 {
		progress = append(progress, `SELECT pid, relid, command, CASE WHEN bytes_total > 0 THEN bytes_processed::float8 / bytes_total END FROM pg_stat_progress_copy`)
	} else { // no view has COPY: each that is seen running counts, as with the view
		progress = append(progress, `SELECT pid, 0::oid, 'COPY', NULL FROM pg_stat_activity WHERE state = 'active' AND query ~* '^\s*COPY\M'`)
	}
	return `WITH p(pid, relid, phase, fraction) AS (` + strings.Join(progress, " UNION ALL ") + `),
	waiting AS (SELECT b AS pid, count(*)::int AS n, extract(epoch FROM max(clock_timestamp() - coalesce(a.state_change, a.query_start)))::float8 AS seconds
		FROM pg_stat_activity a, unnest(pg_blocking_pids(a.pid)) b WHERE a.wait_event_type = 'Lock' GROUP BY b)
	SELECT a.pid, coalesce(a.datname, ''), coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(left(a.query, 1024), ''),
		coalesce(a.query_start, a.backend_start), a.backend_start, coalesce(p.relid, 0), coalesce(p.phase, ''), coalesce(p.fraction, -1), coalesce(w.n, 0), coalesce(w.seconds, 0), s.working
	FROM pg_stat_activity a LEFT JOIN p USING (pid) LEFT JOIN waiting w USING (pid) CROSS JOIN LATERAL (SELECT $1 <> '' AND strpos(a.application_name, $1) > 0 AS marked,
		p.pid IS NOT NULL OR a.state = 'active' OR a.state = 'idle in transaction' AND w.pid IS NOT NULL OR a.application_name LIKE '` + pg.GuardApplicationName + `%'
			OR split_part(a.application_name, ' ', 1) IN ('` + strings.Join(slices.Sorted(maps.Keys(programs)), "', '") + `') AS working) s
	WHERE a.pid <> pg_backend_pid() AND a.backend_type IN ('client backend', 'walsender') AND a.application_name NOT LIKE 'pg_integrity_exporter%' AND (s.working OR s.marked)
	ORDER BY (p.pid IS NOT NULL) DESC, s.marked DESC, a.query_start LIMIT ` + strconv.Itoa(4*maxOperations)
}

// look looks once: what runs, what ended, what changed.
func (w *Watcher) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*lookTimeout)
	defer cancel()
	var ended, elsewhere []Operation
	err := w.lane.Own(ctx, func(ctx context.Context, conn *pg.Conn) error {
		if err := w.findPlaces(ctx, conn); err != nil {
			return err
		}
		now, err := w.activity(ctx, conn)
		if err != nil {
			return err
		}
		restores := func(o Operation) bool { return o.Kind == Restore && o.Database == conn.Facts.Database }
		restoring := slices.ContainsFunc(slices.Collect(maps.Values(now)), restores)
		for _, o := range w.compare(now) {
			restoring = restoring || restores(o)
			if o.Database == conn.Facts.Database {
				w.touchWorked(ctx, conn, o)
				o.Relation = w.resolve(ctx, conn, o)
				ended = append(ended, o)
			} else {
				elsewhere = append(elsewhere, o)
			}
		}
		return w.catalogue(ctx, conn, restoring)
	})
	w.measure()
	for _, o := range elsewhere {
		o.Relation = w.resolveElsewhere(ctx, o)
		ended = append(ended, o)
	}
	for _, o := range ended {
		switch {
		case o.Kind == Guarded:
			w.hold(held{Operation: o, ended: time.Now()})
		case !w.toldFromLog(o):
			w.tell(o, time.Now())
		}
	}
	w.take(ctx)
	w.tellHeld()
	return err
}

func (w *Watcher) activity(ctx context.Context, conn *pg.Conn) (map[string]Operation, error) {
	rows, err := conn.Again(ctx, activitySQL(conn.Facts), w.settings.Marker)
	if err != nil {
		return nil, fmt.Errorf("looking for maintenance: %w", err)
	}
	now := make(map[string]Operation)
	var o Operation
	var role, application string
	var seconds float64
	var connected time.Time
	var working bool
	marked := ""
	_, err = pgx.ForEachRow(rows, []any{
		&o.pid, &o.Database, &role, &application, &o.Statement, &o.Started, &connected, &o.oid, &o.Phase, &o.Fraction, &o.Blocked, &seconds, &working,
	}, func() error {
		if w.settings.Marker != "" && strings.Contains(application, w.settings.Marker) {
			marked = application
		}
		if !working { // it has the marker and does nothing
			return nil
		}
		found := o
		found.Statement = secret.Mask(o.Statement)
		found.By = strings.TrimSpace(role + " " + application)
		found.BlockedFor = time.Duration(seconds * float64(time.Second))
		found.Kind, found.Relation = recognise(o.Statement, application, o.oid != 0 || o.Phase != "")
		switch key := fmt.Sprint(found.pid, found.Started.UnixMicro()); {
		case found.Kind == Guarded:
			w.guards[found.pid] = time.Now()
			found.run = runOf(application)
			key = "guard " + found.run
			now[key] = found.with(now[key])
		case programOf(application) != "": // all of its sessions and statements are one operation
			key = strings.Join([]string{"program", application, role, o.Database}, " ")
			found.Started = connected
			if other, ok := now[key]; ok && found.Fraction < 0 {
				found.Fraction, found.Phase = other.Fraction, other.Phase
			}
			if found.oid != 0 {
				found.worked, found.oid = []uint32{found.oid}, 0
			}
			if found.Kind != BaseBackup { // it is that of one statement
				found.Fraction, found.Phase = -1, ""
			}
			now[key] = found.with(now[key])
		case found.Kind != "" && len(now) < maxOperations:
			now[key] = found
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for maintenance: %w", err)
	}
	w.mark(marked)
	return now, nil
}

// mark opens a window for a session with the marker, and closes it when there
// is none any more.
func (w *Watcher) mark(application string) {
	if w.settings.Marker == "" {
		return
	}
	all, err := window.List(w.files)
	if err != nil {
		w.logger.Warn("a maintenance window cannot be read", "err", err)
		return
	}
	i := slices.IndexFunc(all, func(x window.Window) bool { return x.Source == "marker" && x.Closed.IsZero() })
	switch {
	case application != "" && i < 0:
		_, err = window.Open(w.files, time.Now(), w.settings.MarkerLimit, "a session is called "+application, application, "marker")
	case application == "" && i >= 0:
		_, err = window.Close(w.files, time.Now(), all[i].ID, "the end of the session")
	}
	if err != nil {
		w.logger.Warn("the window of a marked session is not kept", "err", err)
	}
}

// programs recognise what a program does by its application_name.
var programs = map[string]Kind{
	"pg_dump": Dump, "pg_dumpall": Dump, "pg_restore": Restore, "pg_repack": Repack, "pg_squeeze": Repack, "pg_basebackup": BaseBackup,
}

// programOf is what the program of a session does; empty is none of programs.
func programOf(application string) Kind {
	program, _, _ := strings.Cut(application, " ")
	return programs[program]
}

// commands are the commands of SQL that are maintenance.
var commands = map[string]Kind{
	"VACUUM": Vacuum, "VACUUM FULL": VacuumFull, "ANALYZE": Analyze, "CLUSTER": Cluster, "REINDEX": Reindex, "REINDEX CONCURRENTLY": Reindex,
	"TRUNCATE": Truncate, "REFRESH MATERIALIZED VIEW": Refresh, "ALTER SYSTEM": AlterSystem, "ALTER TABLE": AlterTable,
	"ALTER TABLE DETACH PARTITION CONCURRENTLY": AlterTable, "ALTER EXTENSION": Extension, "CREATE EXTENSION": Extension,
	"CREATE INDEX": CreateIndex, "CREATE UNIQUE INDEX": CreateIndex, "CREATE INDEX CONCURRENTLY": CreateIndex, "CREATE UNIQUE INDEX CONCURRENTLY": CreateIndex,
	"DROP TABLE": Drop, "DROP INDEX": Drop, "DROP INDEX CONCURRENTLY": Drop, "DROP DATABASE": Drop, "DROP SCHEMA": Drop,
}

// recognise says what a session does; progressing says that a progress view
// shows it. An empty kind is no maintenance.
func recognise(statement, application string, progressing bool) (Kind, check.RelationName) {
	if strings.HasPrefix(application, pg.GuardApplicationName) {
		return Guarded, check.RelationName{}
	}
	if kind := programOf(application); kind != "" {
		return kind, check.RelationName{}
	}
	statements, err := script.Split(statement)
	if err != nil || len(statements) == 0 {
		// pg_stat_activity cuts long statements off; COPY has its data elsewhere.
		word := strings.ToUpper(strings.TrimSpace(statement))
		switch {
		case strings.HasPrefix(word, "BASE_BACKUP"):
			return BaseBackup, check.RelationName{}
		case progressing && strings.HasPrefix(word, "COPY"):
			if statements, err := script.Split(strings.TrimRight(statement, "; \n") + ";\n\\.\n"); err == nil && len(statements) > 0 {
				return Copy, named(statements[0])
			}
			return Copy, check.RelationName{}
		}
		return "", check.RelationName{}
	}
	if strings.HasPrefix(strings.ToUpper(statement), "BASE_BACKUP") {
		return BaseBackup, check.RelationName{}
	}
	for _, one := range statements {
		kind := commands[one.Class.Command]
		switch {
		case kind == AlterTable && disables.MatchString(one.Text):
			kind = DisabledTrigger
		case kind == "" && progressing && one.Class.Command == "COPY":
			kind = Copy
		}
		if kind != "" {
			return kind, named(one)
		}
	}
	return "", check.RelationName{}
}

// disables finds what switches triggers off.
var disables = regexp.MustCompile(`(?i)\bDISABLE\s+TRIGGER\b`)

// named is the first relation that a statement names.
func named(statement script.Statement) check.RelationName {
	if len(statement.Class.Relations) == 0 {
		return check.RelationName{}
	}
	name := statement.Class.Relations[0]
	return check.RelationName{Schema: name.Schema, Name: name.Name}
}

// compare finds what began, and gives what ended.
func (w *Watcher) compare(now map[string]Operation) (ended []Operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, o := range now {
		old, known := w.running[key]
		if !known && o.Kind == Guarded {
			old, known = w.again(o.run)
		}
		if !known && !w.toldFromLog(o) {
			w.seen[o.Kind]++
		}
		now[key] = o.with(old)
	}
	for key, o := range w.running {
		if _, still := now[key]; !still {
			ended = append(ended, o)
		}
	}
	w.running = now
	return ended
}

// resolveElsewhere is resolve in another database, with a session of its own,
// which is rare.
func (w *Watcher) resolveElsewhere(ctx context.Context, o Operation) check.RelationName {
	if o.oid == 0 && o.Relation.Name == "" && len(o.worked) == 0 || o.Database == "" {
		return o.Relation
	}
	conn := w.connect(ctx, o.Database)
	if conn == nil {
		return o.Relation
	}
	defer conn.Close()
	w.touchWorked(ctx, conn, o)
	return w.resolve(ctx, conn, o)
}

// connect opens a session to name what an operation worked on; nil is that it
// cannot.
func (w *Watcher) connect(ctx context.Context, database string) *pg.Conn {
	conn, err := w.target.Connect(ctx, database, pg.Purpose{Name: "maintenance", StatementTimeout: lookTimeout, LockTimeout: 200 * time.Millisecond})
	if err != nil {
		w.logger.Debug("what maintenance worked on cannot be named", "datname", database, "err", err)
		return nil
	}
	return conn
}

// resolve finds the whole name of what an operation worked on.
func (w *Watcher) resolve(ctx context.Context, conn *pg.Conn, o Operation) check.RelationName {
	if o.oid == 0 && o.Relation.Name == "" || o.Database == "" {
		return o.Relation
	}
	var name check.RelationName
	err := conn.QueryRow(ctx, `SELECT n.nspname::text, c.relname::text FROM pg_class i
		JOIN pg_class c ON c.oid = coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = i.oid), i.oid) JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE i.oid = $1::oid OR $1::oid = 0 AND i.relname = $3 AND ($2 = '' AND n.nspname !~ '^pg_' OR n.nspname = $2) ORDER BY n.nspname = 'public' DESC LIMIT 1`,
		o.oid, o.Relation.Schema, o.Relation.Name).Scan(&name.Schema, &name.Name)
	if err != nil {
		if !errors.Is(err, pgx.ErrNoRows) {
			w.logger.Debug("a relation under maintenance is not found", "err", err)
		}
		return o.Relation
	}
	return name
}

// tell records what ended and asks for what it touched to be checked.
func (w *Watcher) tell(o Operation, ended time.Time) {
	w.told = append(w.told, held{Operation: o, ended: ended, since: time.Now()})
	details := map[string]string{"kind": string(o.Kind), "by": o.By, "blocked_sessions": strconv.Itoa(o.Blocked), "blocked_for": o.BlockedFor.Round(time.Millisecond).String()}
	if o.pid != 0 {
		details["pid"] = strconv.Itoa(o.pid)
	}
	if o.run != "" {
		details["run"] = o.run
	}
	if o.Statement != "" {
		details["statement"] = firstLine(o.Statement)
	}
	object := ""
	if o.Relation.Name != "" {
		object = " of " + strings.TrimPrefix(o.Relation.String(), ".")
	}
	by := ""
	if o.By != "" {
		by = " by " + o.By
	}
	err := w.files.Record(state.Event{
		Time: o.Started, Ended: ended, Kind: state.EventMaintenance, Database: o.Database, Schema: o.Relation.Schema, Relation: o.Relation.Name,
		Message: fmt.Sprintf("%s%s%s, %s, %d sessions waited for it", strings.ReplaceAll(string(o.Kind), "_", " "), object, by, ended.Sub(o.Started).Round(time.Second), o.Blocked),
		Source:  cmp.Or(o.source, "pg_stat_activity"), Details: details,
	})
	if err != nil {
		w.logger.Warn("maintenance is not in the log of events", "err", err)
	}
	w.touch(o)
}

// touch asks for what an operation touched to be checked.
func (w *Watcher) touch(o Operation) {
	if o.Relation.Schema != "" && o.Relation.Name != "" && o.Kind != Dump && o.Kind != Analyze && o.Kind != Drop {
		w.suspects.Touched(schedule.Suspect{Database: o.Database, Relation: o.Relation})
	}
}

// touchWorked is touch for what a program worked on.
func (w *Watcher) touchWorked(ctx context.Context, conn *pg.Conn, o Operation) {
	for _, oid := range o.worked {
		w.touch(Operation{Kind: o.Kind, Database: o.Database, Relation: w.resolve(ctx, conn, Operation{oid: oid, Database: o.Database})})
	}
}

func firstLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 200 {
		return string(runes[:200])
	}
	return text
}
