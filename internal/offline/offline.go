package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/wal"
)

// Options say what is looked at.
type Options struct {
	// Directory is the data directory.
	Directory string
	// Imprints are directories in which exporters keep what pages of tables said.
	Imprints []string
	// Only and Exclude are names of checks; without Only all are run.
	Only, Exclude []string
	// RateLimit is how many bytes per second may be read; 0 is no limit.
	RateLimit int64
	// Progress is told of each check that ends; nil is nobody.
	Progress func(check.Result)
	Logger   *slog.Logger
}

// part is one of the checks.
type part struct {
	name string
	run  func(*run, context.Context) error
}

// parts are the checks, in the order in which they run: each uses what those
// before have learnt.
func parts() []part {
	return []part{
		{"cluster", (*run).cluster},
		{"configuration", (*run).configuration},
		{"wal", (*run).wal},
		{"files", (*run).files},
		{"page", (*run).pages},
	}
}

// Names lists the checks.
func Names() []string {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return names
}

// stage says when the start of a server comes to something that stops it.
type stage int

// The stages, in the order of a start; never is what does not stop it.
const (
	never stage = iota
	atDirectory
	atParameters
	atLockFile
	atControlFile
	atLibraries
	atHBA
	atRecovery
	atConnections
)

// run is one look at a data directory.
type run struct {
	Options

	result   *check.Result
	problems []string
	skipped  string
	seen     map[string]bool
	// ofObject counts the findings of one file.
	ofObject map[string]int
	started  time.Time
	read     int64

	stops []stop

	// major is the version by PG_VERSION.
	major int
	// control is the control file; known says that it could be read and is sane.
	control cluster.Control
	known   bool
	// running says that a server seems to run in the directory.
	running bool
	// settings are the lines of the configuration files, parameters the effective
	// ones. elsewhere says that postgresql.conf is not in the data directory.
	settings   settings
	parameters map[string]string
	elsewhere  bool
	// walEnd is where the WAL ends that can be read; 0 is not known.
	walEnd wal.Position
	// label is the label of a backup that is to be recovered; nil is none.
	label *cluster.BackupLabel
	// opened opens segments of pg_wal; nil is not known how.
	opened wal.Opener
	// writtenAt is where the WAL changed pages before the last checkpoint.
	writtenAt map[wal.Block]wal.Position
	// imprints are what was kept of the pages of the present directory.
	imprints *imprints
	// names are what the catalogues say of the files.
	names *names
	// chunk holds the pages that are being looked at.
	chunk []byte
	// statusFiles are the files of pg_xact that were read, by number.
	statusFiles map[uint32][]byte
}

// stop is a reason why a server does not start.
type stop struct {
	stage   stage
	finding check.Finding
}

// maxOfObject bounds the findings of one file.
const maxOfObject = 50

// Run looks at a data directory. The error says that it is none, or that the
// options make no sense.
func Run(ctx context.Context, options Options) (check.Document, error) {
	directory, err := filepath.Abs(options.Directory)
	if err != nil {
		return check.Document{}, err
	}
	options.Directory = directory
	selected, err := choose(options.Only, options.Exclude)
	if err != nil {
		return check.Document{}, err
	}
	r := &run{Options: options, seen: make(map[string]bool), ofObject: make(map[string]int), parameters: make(map[string]string), statusFiles: make(map[uint32][]byte)}
	if err := r.identify(); err != nil {
		return check.Document{}, err
	}
	r.loadSettings()
	document := check.Document{
		Version: 1, Target: directory, ServerVersion: r.major * 10000, Started: time.Now().UTC(),
		Checks: []check.Result{}, Findings: []check.Finding{},
	}
	for _, p := range parts() {
		result := r.one(ctx, p)
		if !slices.Contains(selected, p.name) {
			continue // it was run for what the others need to know of it
		}
		document.Checks = append(document.Checks, result)
		document.Findings = append(document.Findings, result.Findings...)
		if options.Progress != nil {
			options.Progress(result)
		}
	}
	document.Finished = time.Now().UTC()
	rank := map[check.Severity]int{check.SeverityCritical: 0, check.SeverityWarning: 1, check.SeverityInfo: 2}
	slices.SortStableFunc(document.Findings, func(a, b check.Finding) int { return rank[a.Severity] - rank[b.Severity] })
	document.Conclusion = r.conclusion(document)
	return document, nil
}

// choose gives the names of the checks whose results are wanted.
func choose(only, exclude []string) ([]string, error) {
	names := Names()
	for _, name := range slices.Concat(only, exclude) {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("there is no offline check %q; there are: %s", name, strings.Join(names, ", "))
		}
	}
	selected := slices.DeleteFunc(names, func(name string) bool {
		return slices.Contains(exclude, name) || len(only) > 0 && !slices.Contains(only, name)
	})
	if len(selected) == 0 {
		return nil, fmt.Errorf("no check is left to run; there are: %s", strings.Join(Names(), ", "))
	}
	return selected, nil
}

// identify makes sure that the directory is a data directory, or was one: a
// damaged one lacks things, so two of its parts are enough.
func (r *run) identify() error {
	info, err := os.Stat(r.Directory)
	switch {
	case err != nil:
		return fmt.Errorf("--pgdata: %w", err)
	case !info.IsDir():
		return fmt.Errorf("--pgdata: %s is not a directory; give the server's data directory", r.Directory)
	}
	if _, err := os.ReadDir(r.Directory); err != nil {
		return fmt.Errorf("--pgdata: %w; run as the user of the server or as root", err)
	}
	signs := 0
	for _, name := range []string{"PG_VERSION", "global", "base", "pg_wal", "pg_xact", cluster.ControlFile} {
		if r.exists(name) {
			signs++
		}
	}
	if signs < 2 {
		hint := ""
		if entries, err := filepath.Glob(filepath.Join(r.Directory, "*", "PG_VERSION")); err == nil && len(entries) > 0 {
			hint = "; did you mean " + filepath.Dir(entries[0]) + "?"
		}
		return fmt.Errorf("--pgdata: %s is not a data directory of PostgreSQL: it has no PG_VERSION, global or base%s", r.Directory, hint)
	}
	content, err := r.readFile("PG_VERSION", maxVersionFile)
	if err != nil {
		return nil //nolint:nilerr // a finding of the check cluster
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(content)), "\n") // the server reads no further
	major, err := strconv.Atoi(text)
	switch {
	case err != nil && olderVersion(text):
		return fmt.Errorf("--pgdata: %s is of PostgreSQL %s; versions 13 to 18 are supported", r.Directory, text)
	case err != nil:
		return nil //nolint:nilerr // a finding of the check cluster
	case major < 13 || major > 18:
		return fmt.Errorf("--pgdata: %s is of PostgreSQL %d; versions 13 to 18 are supported", r.Directory, major)
	}
	r.major = major
	return nil
}

// olderVersion says that a text is a version such as 9.6.
func olderVersion(text string) bool {
	major, minor, ok := strings.Cut(text, ".")
	_, errMajor := strconv.ParseUint(major, 10, 8)
	_, errMinor := strconv.ParseUint(minor, 10, 8)
	return ok && errMajor == nil && errMinor == nil
}

// one runs one check.
func (r *run) one(ctx context.Context, p part) check.Result {
	result := check.Result{Check: p.name, Started: time.Now(), Findings: []check.Finding{}}
	r.result, r.problems, r.skipped, r.read, r.started = &result, nil, "", 0, time.Now()
	if err := p.run(r, ctx); err != nil {
		r.problem("", err)
	}
	result.Finished = time.Now()
	result.Seconds = result.Finished.Sub(result.Started).Seconds()
	reasons := r.problems
	if r.skipped != "" {
		reasons = append([]string{r.skipped}, reasons...)
	}
	if more := len(reasons) - 3; more > 0 {
		reasons = append(reasons[:3:3], fmt.Sprintf("and %d more", more))
	}
	result.Reason = strings.Join(reasons, "; ")
	switch {
	case len(result.Findings) > 0:
		result.Outcome = check.OutcomeFindings
	case len(r.problems) > 0:
		result.Outcome = check.OutcomeFailed
	case r.skipped != "":
		result.Outcome = check.OutcomeSkipped
	default:
		result.Outcome = check.OutcomeOK
	}
	return result
}

// problem notes something that could not be looked at.
func (r *run) problem(object string, err error) {
	if errors.Is(err, errTold) {
		return
	}
	text := err.Error()
	if errors.Is(err, fs.ErrPermission) {
		text += "; run as the user of the server or as root"
	}
	if object != "" {
		text = object + ": " + text
	}
	r.problems = append(r.problems, strings.ReplaceAll(text, r.Directory+"/", ""))
}

// found reports a finding; at is when the start of the server comes to it.
func (r *run) found(at stage, f check.Finding, kind string) {
	f.Check = r.result.Check
	if f.Impact == "" {
		f.Impact = "The server does not start."
	}
	f = f.Identified(kind)
	if r.seen[f.Fingerprint] {
		return
	}
	r.seen[f.Fingerprint] = true
	object := f.Database + "\x00" + f.Relation
	if r.ofObject[object]++; r.ofObject[object] > maxOfObject {
		return
	}
	if at != never {
		r.stops = append(r.stops, stop{at, f})
	}
	r.result.Findings = append(r.result.Findings, f)
}

// conclusion is the one sentence that somebody whose server is down needs.
func (r *run) conclusion(document check.Document) string {
	if r.running {
		return "A server seems to run in this directory, so it was not judged as one that is down; use check without --offline for a running server."
	}
	slices.SortStableFunc(r.stops, func(a, b stop) int { return int(a.stage) - int(b.stage) })
	if len(r.stops) > 0 {
		first := r.stops[0].finding
		return fmt.Sprintf("The server will not start: %s. Safe to do first: %s", strings.TrimSuffix(first.Message, "."), first.Action)
	}
	for _, f := range document.Findings {
		if f.Severity == check.SeverityCritical {
			return fmt.Sprintf("Nothing was found that stops the start, but do not start the server yet: %s. Safe to do first: %s", strings.TrimSuffix(f.Message, "."), f.Action)
		}
	}
	for _, c := range document.Checks {
		if c.Outcome == check.OutcomeFailed {
			return "Nothing was found that stops the start, but not everything could be looked at; the reasons are above."
		}
	}
	if r.known && !r.control.State.Clean() {
		return fmt.Sprintf("Nothing was found that stops the start; the server did not shut down cleanly (%s), so the start will replay the WAL from %s.", r.control.State, r.control.Redo)
	}
	return "Nothing was found that stops the start."
}

// path is the absolute name of a file of the data directory.
func (r *run) path(name string) string { return filepath.Join(r.Directory, filepath.FromSlash(name)) }

func (r *run) exists(name string) bool {
	_, err := os.Stat(r.path(name))
	return err == nil
}

// readFile reads a file of up to limit bytes.
func (r *run) readFile(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(r.path(name))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		r.unreadable(name, "it is no file")
		return nil, errTold
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are expected", name, info.Size(), limit)
	}
	content, err := os.ReadFile(r.path(name))
	if text := datadir.Unreadable(err); text != "" {
		r.unreadable(name, text)
		return nil, errTold
	}
	if r.result != nil {
		r.result.Bytes += int64(len(content))
	}
	return content, err
}

// errTold is the error of a file of which a finding tells.
var errTold = errors.New("a finding tells why")

// stages says when the start of a server comes to a file that it must read, by how
// the name of the file begins; the first that fits counts.
var stages = []struct {
	prefix string
	at     stage
}{
	{"PG_VERSION", atDirectory},
	{cluster.ControlFile, atControlFile},
	{"postmaster.pid", atLockFile},
	{"pg_logical/snapshots/", never},
	{"global/", atRecovery},
	{"pg_xact/", atRecovery},
	{"pg_multixact/", atRecovery},
	{"pg_twophase/", atRecovery},
	{"pg_replslot/", atRecovery},
	{"pg_logical/", atRecovery},
	{"backup_label", atRecovery},
	{"tablespace_map", atRecovery},
}

// unreadable reports a file that cannot be read at all.
func (r *run) unreadable(name, why string) {
	if r.result == nil {
		return
	}
	at := never
	for _, n := range stages {
		if strings.HasPrefix(name, n.prefix) {
			at = n.at
			break
		}
	}
	impact := "What the file holds is lost for the server."
	if at != never {
		impact = "The server does not start."
	}
	r.found(at, critical(name, fmt.Sprintf("%s cannot be read: %s", name, why), impact, copyFirst+"Look at the disk and at the kernel's log. "+restore), "unreadable")
}

// list gives the names in a directory; a directory that does not exist has none.
func (r *run) list(name string) ([]string, error) {
	entries, err := os.ReadDir(r.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

// throttle counts bytes and waits until they keep the rate limit.
func (r *run) throttle(ctx context.Context, bytes int) {
	r.result.Bytes += int64(bytes)
	r.read += int64(bytes)
	if r.RateLimit <= 0 {
		return
	}
	due := time.Duration(float64(r.read) / float64(r.RateLimit) * float64(time.Second))
	select {
	case <-time.After(due - time.Since(r.started)):
	case <-ctx.Done():
	}
}
