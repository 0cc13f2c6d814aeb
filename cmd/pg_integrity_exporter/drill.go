package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"

	"pg_integrity_exporter/collector"
	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

// drillFlags are the flags of the command drill.
type drillFlags struct {
	*globals

	output     string
	repository string
	path       string
	kind       string
	wal        string
	backup     string
	immediate  string
	target     drill.Target
	scratch    string
	bin        []string
	user       string
	role       string
	timeout    time.Duration
	rateLimit  units.Base2Bytes
	compare    bool
	verifyOnly bool
	sample     float64
	list       bool
	clean      bool
	textfile   string
	// urgent is that nothing gives way to others: it is no drill.
	urgent bool
}

func addDrill(app *kingpin.Application, g *globals) (string, command) {
	f := &drillFlags{globals: g}
	cmd := app.Command("drill", "Restore the newest backup into a scratch server, recover, check it, measure, and remove everything. Exit code: 0 proved, 1 not.")
	cmd.Flag("output", "Format: text or json.").Default("text").EnumVar(&f.output, "text", "json")
	cmd.Flag("repository", "The repository of the configuration file; not needed when there is one.").PlaceHolder("NAME").StringVar(&f.repository)
	cmd.Flag("path", "A repository or a backup that is not in the configuration file.").PlaceHolder("DIRECTORY").StringVar(&f.path)
	cmd.Flag("type", "What made --path: barman, cloudnativepg, directory (pg_basebackup), dump, pgbackrest or wal-g.").Default(string(recovery.TypeDirectory)).EnumVar(&f.kind, repositoryTypes()...)
	cmd.Flag("wal-path", "The directory of archived WAL that belongs to --path.").PlaceHolder("DIRECTORY").StringVar(&f.wal)
	cmd.Flag("backup", "The backup to restore; without it the newest, or with --recovery-target-time the newest before that.").PlaceHolder("LABEL").StringVar(&f.backup)
	cmd.Flag("recovery-target", "latest, or immediate to end as soon as the backup is consistent.").Default("latest").EnumVar(&f.immediate, "latest", "immediate")
	cmd.Flag("recovery-target-time", "Recover up to this time.").PlaceHolder("TIME").StringVar(&f.target.Time)
	cmd.Flag("recovery-target-lsn", "Recover up to this place in the WAL.").PlaceHolder("LSN").StringVar(&f.target.LSN)
	cmd.Flag("recovery-target-name", "Recover up to this restore point.").PlaceHolder("NAME").StringVar(&f.target.Name)
	cmd.Flag("recovery-target-xid", "Recover up to this transaction.").PlaceHolder("XID").StringVar(&f.target.XID)
	cmd.Flag("recovery-target-timeline", "Recover along this timeline: latest, current or a number.").PlaceHolder("TIMELINE").StringVar(&f.target.Timeline)
	cmd.Flag("scratch", "Where the drill makes its directory (default: recovery.drill.scratch, or "+drill.DefaultScratch+").").PlaceHolder("DIRECTORY").StringVar(&f.scratch)
	cmd.Flag("bin-directory", "Where the programs of PostgreSQL are; patterns as in a shell (repeat).").PlaceHolder("DIRECTORY").StringsVar(&f.bin)
	cmd.Flag("user", "The user of the system that runs the scratch server when this is root (default: recovery.drill.user, or postgres).").PlaceHolder("NAME").StringVar(&f.user)
	cmd.Flag("role", "The superuser to log in to the scratch server as (default: found out).").PlaceHolder("NAME").StringVar(&f.role)
	cmd.Flag("timeout", "Time limit of the drill (default: recovery.drill.timeout).").DurationVar(&f.timeout)
	cmd.Flag("rate-limit", "Write at most this many bytes per second when a backup is copied, and read as many in each check, for example 50MiB (default: recovery.drill.rate_limit, or no limit).").Default("0").BytesVar(&f.rateLimit)
	cmd.Flag("compare", "Compare sampled rows with the living server.").Default("true").BoolVar(&f.compare)
	cmd.Flag("verify-only", "Restore nothing: compare the backup with its manifest, and its WAL with its records.").BoolVar(&f.verifyOnly)
	cmd.Flag("sample", "With --verify-only: share of the contents that is read, from more than 0 to 1.").Default("1").Float64Var(&f.sample)
	cmd.Flag("list", "Restore nothing: list the backups, what is wrong with them, the recovery points, and where to recover to when something is damaged.").BoolVar(&f.list)
	cmd.Flag("clean", "Restore nothing: remove what killed drills left.").BoolVar(&f.clean)
	cmd.Flag("textfile", "Also write the metrics of the drills to this file, for the textfile collector of node_exporter.").PlaceHolder("FILE").StringVar(&f.textfile)
	return cmd.FullCommand(), f.drill
}

func repositoryTypes() []string {
	var types []string
	for _, t := range recovery.Types() {
		types = append(types, string(t))
	}
	return types
}

// exitNotProved is the exit code of everything but a proof.
const exitNotProved = 1

func (f *drillFlags) drill(ctx context.Context) int {
	ok, err := f.run(ctx)
	if err != nil {
		f.fail(err)
		return exitNotProved
	}
	if !ok {
		return exitNotProved
	}
	return 0
}

func (f *drillFlags) run(ctx context.Context) (bool, error) {
	f.target.Immediate = f.immediate == "immediate"
	options, files, err := f.options()
	if err != nil {
		return false, err
	}
	switch {
	case f.clean:
		removed, err := drill.Clean(options.Scratch)
		for _, path := range removed {
			fmt.Fprintf(f.stdout, "removed %s\n", path)
		}
		return err == nil, err
	case f.list:
		return f.listBackups(ctx, options.Watched.Repository, files)
	case f.verifyOnly:
		return f.verify(ctx, options)
	}
	stop := func() {}
	if terminal(f.stderr) {
		stop = followDrill(f.stderr, &options, files)
	}
	report := drill.Run(ctx, options)
	stop()
	if ctx.Err() != nil {
		return false, errors.New("stopped; what the drill made is removed, and its result is not kept")
	}
	if err := recovery.SaveReport(files, report); err != nil {
		f.logger.Error("the result is not kept: a running exporter will not show it", "err", err)
	}
	if err := f.share(files); err != nil {
		f.logger.Error("the exporter cannot read the result", "err", err)
	}
	if err := f.writeTextfile(files, options.Watched, report); err != nil {
		return false, err
	}
	if f.output == "json" {
		return report.Proved(), f.writeJSON(report)
	}
	_, err = io.WriteString(f.painted(), drillText(report))
	return report.Proved(), err
}

// share gives what root wrote to the owner of the state directory, who runs the
// exporter.
func (f *drillFlags) share(files *state.Files) error {
	info, err := os.Stat(f.statePath)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	// Within the directory only: its owner could put links into it meanwhile.
	root, err := os.OpenRoot(filepath.Dir(files.Directory()))
	if err != nil {
		return err
	}
	err = fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
	return errors.Join(err, root.Close())
}

// options puts flags and configuration together.
func (f *drillFlags) options() (drill.Options, *state.Files, error) {
	validated, target, err := f.resolve()
	if err != nil {
		return drill.Options{}, nil, err
	}
	c := validated.Get().Recovery
	repository, err := f.choose(c)
	if err != nil {
		return drill.Options{}, nil, err
	}
	d := c.Drill
	options := drill.Options{
		Watched: repository.Watched(), ConfigFile: repository.ConfigFile,
		FetchCommand: repository.FetchCommand, RestoreCommand: repository.RestoreCommand,
		Backup: f.backup, Target: f.target, Scratch: either(f.scratch, d.Scratch, drill.DefaultScratch), BinDirectories: d.BinDirectories,
		User: either(f.user, d.User), Role: either(f.role, d.Role), Timeout: time.Duration(d.Timeout), MinFree: int64(d.MinFree),
		RateLimit: cmp.Or(int64(f.rateLimit), int64(d.RateLimit)), CompareRows: d.CompareRows, Settings: d.Settings, Rules: validated.Get().Rules(), Logger: f.logger.With("repository", repository.Name),
	}
	if len(f.bin) > 0 {
		options.BinDirectories = f.bin
	}
	if f.timeout > 0 {
		options.Timeout = f.timeout
	}
	if options.Scratch, err = filepath.Abs(options.Scratch); err != nil {
		return drill.Options{}, nil, err
	}
	for _, q := range d.Queries {
		options.Queries = append(options.Queries, drill.Query(q))
	}
	// Without a server named anywhere there is nothing to compare with.
	if f.compare && f.named(validated.Get().Target) {
		options.Primary = target
	}
	if f.rateLimit < 0 {
		return drill.Options{}, nil, errors.New("--rate-limit must not be negative")
	}
	if f.urgent {
		d.Nice, options.RateLimit = 0, 0
	}
	if err := drill.Yield(d.Nice); err != nil {
		f.logger.Warn("the drill cannot give way to others", "err", err)
	}
	return options, state.OpenFiles(f.statePath, target.Name()), nil
}

// named says whether somebody said which server is the living one.
func (f *drillFlags) named(t config.Target) bool {
	return f.dsn != "" || t.Given() || f.environment.NamesServer()
}

func either(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}

// choose is the repository of the flags or of the configuration.
func (f *drillFlags) choose(c config.Recovery) (config.Repository, error) {
	if f.sample <= 0 || f.sample > 1 {
		return config.Repository{}, fmt.Errorf("--sample must be more than 0 and at most 1, not %v", f.sample)
	}
	if f.path == "" {
		if f.wal != "" {
			return config.Repository{}, errors.New("--wal-path belongs to --path")
		}
		return c.Find(f.repository)
	}
	path, err := filepath.Abs(f.path)
	if err != nil {
		return config.Repository{}, err
	}
	repository := config.Repository{Name: either(f.repository, filepath.Base(path)), Type: f.kind, Path: path}
	if f.wal != "" {
		if repository.WAL, err = filepath.Abs(f.wal); err != nil {
			return config.Repository{}, err
		}
	}
	return repository, nil
}

func (f *drillFlags) writeJSON(value any) error {
	encoder := json.NewEncoder(f.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// writeTextfile replaces the file as a whole.
func (f *drillFlags) writeTextfile(files *state.Files, watched recovery.Watched, report *recovery.Report) error {
	if f.textfile == "" {
		return nil
	}
	history, err := recovery.LoadHistory(files, watched.Name)
	if err != nil || history.Last == nil {
		history = recovery.HistoryOf(report)
	}
	var text bytes.Buffer
	if err := collector.WriteDrills(&text, watched, history); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(f.textfile), ".drill-*")
	if err != nil {
		return fmt.Errorf("--textfile: %w", err)
	}
	_, err = temporary.Write(text.Bytes())
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), f.textfile)
	}
	if err != nil {
		return fmt.Errorf("--textfile: %w", errors.Join(err, os.Remove(temporary.Name())))
	}
	return nil
}

// drillText is the report for people.
func drillText(r *recovery.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", r.Repository, strings.ToUpper(string(r.Outcome)))
	if r.Reason != "" {
		fmt.Fprintf(&b, ": %s", r.Reason)
	}
	fmt.Fprintf(&b, "\n\nbackup          %s", either(r.Backup, "none"))
	if r.BackupTime != nil {
		fmt.Fprintf(&b, " of %s", r.BackupTime.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(&b, "\nrecovered to    %s", r.Target)
	if r.Position != "" {
		fmt.Fprintf(&b, ": LSN %s", r.Position)
	}
	if r.RecoveryPoint != nil {
		fmt.Fprintf(&b, ", last transaction at %s", r.RecoveryPoint.UTC().Format(time.RFC3339))
	}
	if r.RecoverySeconds > 0 {
		fmt.Fprintf(&b, "\nrecovery time   %.1f s for %d MB", r.RecoverySeconds, r.Bytes>>20)
	}
	if r.Verified != nil {
		fmt.Fprintf(&b, "\nmanifest        %d files compared", r.Verified.Read)
	}
	if r.Comparison != nil {
		fmt.Fprintf(&b, "\nliving server   %d rows of %d tables compared, %d differ", r.Comparison.Rows, r.Comparison.Tables, r.Comparison.Different)
		if r.Comparison.Reason != "" {
			fmt.Fprintf(&b, " (%s)", r.Comparison.Reason)
		}
	}
	b.WriteString("\n\n")
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, p := range r.Phases {
		fmt.Fprintf(table, "%s\t%.1f s\n", p.Phase, p.Seconds)
	}
	if len(r.Checks) > 0 {
		fmt.Fprintln(table)
	}
	for _, c := range r.Checks {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", c.Check, c.Database, c.Outcome, c.Reason)
	}
	for _, q := range r.Queries {
		fmt.Fprintf(table, "query %s\t%s\t%s\t%s\n", q.Name, q.Database, map[bool]string{true: "ok", false: "failed"}[q.OK], q.Message)
	}
	_ = table.Flush() // to memory
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "\nPROBLEM  %s\n", p)
	}
	for _, finding := range r.Findings {
		fmt.Fprintf(&b, "\n%s  %s  %s\n  what:    %s\n", strings.ToUpper(string(finding.Severity)), finding.Class, finding.Object(), finding.Message)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "\nnote: %s\n", note)
	}
	return b.String()
}

// verificationDocument is what --verify-only prints as JSON.
type verificationDocument struct {
	Version    int                `json:"version"`
	Repository string             `json:"repository"`
	Backup     string             `json:"backup"`
	Sample     float64            `json:"sample"`
	Files      int                `json:"files"`
	FilesRead  int                `json:"files_read"`
	Bytes      int64              `json:"bytes"`
	Seconds    float64            `json:"seconds"`
	OK         bool               `json:"ok"`
	Reason     string             `json:"reason,omitempty"`
	Problems   []recovery.Problem `json:"problems"`
}

// verify compares a backup with its manifest.
func (f *drillFlags) verify(ctx context.Context, options drill.Options) (bool, error) {
	inventory := recovery.ReadRepository(ctx, options.Watched.Repository)
	if inventory.Err != nil {
		return false, inventory.Err
	}
	find := inventory.Newest
	if f.backup != "" {
		find = func() (recovery.Backup, error) { return inventory.Find(f.backup) }
	}
	b, err := find()
	if err != nil {
		return false, err
	}
	result, err := recovery.Verify(ctx, inventory, b, recovery.VerifyOptions{Sample: f.sample, Seed: uint64(time.Now().UnixNano())})
	document := verificationDocument{
		Version: recovery.ReportVersion, Repository: options.Watched.Name, Backup: b.Label, Sample: f.sample, Files: result.Files,
		FilesRead: result.Read, Bytes: result.Bytes, Seconds: result.Duration.Seconds(), Problems: append([]recovery.Problem{}, b.Problems...),
	}
	document.Problems = append(document.Problems, result.Problems...)
	if err != nil {
		document.Reason = err.Error()
	}
	document.OK = err == nil && len(document.Problems) == 0
	if f.output == "json" {
		return document.OK, f.writeJSON(document)
	}
	for _, p := range document.Problems {
		fmt.Fprintf(f.painted(), "PROBLEM  %s\n", p)
	}
	if document.Reason != "" {
		return false, errors.New(document.Reason)
	}
	fmt.Fprintf(f.stdout, "%s: %d files, %d of them read (%d MB) in %.1f s: %d problems\n", b.Label, result.Files, result.Read, result.Bytes>>20, result.Duration.Seconds(), len(document.Problems))
	return document.OK, nil
}

// backupDocument is one backup of --list.
type backupDocument struct {
	Label    string             `json:"label"`
	Kind     recovery.Kind      `json:"kind"`
	Started  time.Time          `json:"started,omitzero"`
	Finished time.Time          `json:"finished,omitzero"`
	Size     int64              `json:"size,omitempty"`
	Major    int                `json:"server_major_version,omitempty"`
	Timeline uint32             `json:"timeline,omitempty"`
	Start    string             `json:"start_lsn,omitempty"`
	End      string             `json:"end_lsn,omitempty"`
	Parent   string             `json:"builds_on,omitempty"`
	Usable   bool               `json:"usable"`
	Problems []recovery.Problem `json:"problems,omitempty"`
}

// listDocument is what --list prints as JSON.
type listDocument struct {
	Version    int                `json:"version"`
	Repository string             `json:"repository"`
	Backups    []backupDocument   `json:"backups"`
	Earliest   time.Time          `json:"earliest_recovery_point,omitzero"`
	Latest     time.Time          `json:"latest_recovery_point,omitzero"`
	LatestLSN  string             `json:"latest_lsn,omitempty"`
	Problems   []recovery.Problem `json:"problems"`
	// Damaged is what the exporter found corrupt, Target when it was all good.
	Damaged []recovery.Damaged `json:"damaged,omitempty"`
	Target  time.Time          `json:"recommended_target_time,omitzero"`
}

// listBackups shows what a repository holds, and to when to recover when something
// is damaged; it succeeds when something can be
// brought back and nothing is wrong.
func (f *drillFlags) listBackups(ctx context.Context, repository recovery.Repository, files *state.Files) (bool, error) {
	inventory := recovery.ReadRepository(ctx, repository)
	if inventory.Err != nil {
		return false, inventory.Err
	}
	document := listDocument{Version: recovery.ReportVersion, Repository: repository.Name, Backups: []backupDocument{}, Problems: append([]recovery.Problem{}, inventory.AllProblems()...)}
	for _, b := range inventory.Backups {
		one := backupDocument{
			Label: b.Label, Kind: b.Kind, Started: b.Started, Finished: b.Finished, Size: b.Size, Major: b.Major, Timeline: b.Timeline,
			Parent: b.Parent, Usable: b.Usable(), Problems: b.Problems,
		}
		if b.Start != 0 {
			one.Start = b.Start.String()
		}
		if b.End != 0 {
			one.End = b.End.String()
		}
		document.Backups = append(document.Backups, one)
	}
	earliest, latest, ok := inventory.Points()
	if ok {
		document.Earliest, document.Latest = earliest.Time, latest.Time
		if latest.Position != 0 {
			document.LatestLSN = latest.Position.String()
		}
	}
	events, err := files.Events(time.Time{}, time.Now())
	if err != nil {
		return false, fmt.Errorf("what is damaged is not known: %w", err)
	}
	document.Damaged = recovery.DamagedNow(events)
	document.Target, _ = recovery.TargetFor(document.Damaged)
	good := ok && len(document.Problems) == 0
	if f.output == "json" {
		return good, f.writeJSON(document)
	}
	table := tabwriter.NewWriter(f.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BACKUP\tKIND\tFINISHED\tMB\tSTATE")
	for _, b := range document.Backups {
		status := "usable"
		if !b.Usable {
			status = b.Problems[0].Message
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", b.Label, b.Kind, b.Finished.UTC().Format(time.RFC3339), b.Size>>20, status)
	}
	if err := table.Flush(); err != nil {
		return false, err
	}
	for _, p := range inventory.Problems {
		fmt.Fprintf(f.painted(), "PROBLEM  %s\n", p)
	}
	if !ok {
		fmt.Fprintln(f.stdout, "Nothing can be brought back.")
		return false, nil
	}
	fmt.Fprintf(f.stdout, "Any moment from %s to %s can be brought back.\n", earliest.Time.UTC().Format(time.RFC3339), latest.Time.UTC().Format(time.RFC3339))
	return good, f.recommend(inventory, document)
}

// recommend says what is damaged now, and to when to recover.
func (f *drillFlags) recommend(inventory *recovery.Inventory, document listDocument) error {
	if len(document.Damaged) == 0 {
		return nil
	}
	fmt.Fprintln(f.stdout)
	table := tabwriter.NewWriter(f.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DAMAGED\tDATABASE\tCHECK\tFOUND\tLAST KNOWN GOOD")
	for _, d := range document.Damaged {
		good := "not known"
		if !d.LastGood.IsZero() {
			good = d.LastGood.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", either(d.Object, "the cluster"), d.Database, d.Check, d.Found.UTC().Format(time.RFC3339), good)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, unknown := recovery.TargetFor(document.Damaged)
	if unknown == len(document.Damaged) {
		fmt.Fprintln(f.stdout, "When these were last good is not known: prove earlier moments with --recovery-target-time.")
		return nil
	}
	moment := document.Target.UTC().Format("2006-01-02 15:04:05+00") // as recovery_target_time takes it
	b, ok := inventory.Before(document.Target)
	if !ok {
		fmt.Fprintf(f.stdout, "They were all good at %s, but no usable backup is that old.\n", moment)
		return nil
	}
	fmt.Fprintf(f.stdout, "Recommended: recover to %s, when they were all proved good, from the backup %s. Prove it first: --recovery-target-time='%s'\n", moment, b.Label, moment)
	if unknown > 0 {
		fmt.Fprintf(f.stdout, "When %d of them were last good is not known: look at them in what the drill brings back.\n", unknown)
	}
	return nil
}
