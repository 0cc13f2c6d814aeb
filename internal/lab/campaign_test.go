package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// kind is one way to damage a database.
type kind struct {
	// area and name say what is damaged and how.
	area, name string
	// since is the first version that has it; 0 is all.
	since int
	// unit is what is damaged, made in a schema of its own; empty is that the kind
	// needs a whole database.
	unit string
	// later is what is written to the unit after its files were copied (victim.old).
	later string
	// sql is damage by statements of a superuser, with allow_system_table_mods.
	sql string
	// do damages the files of a stopped server.
	do func(c *victim) error
	// want are the relations of which one must be named by a finding; one that ends
	// in * stands for all that begin so.
	want []string
	// harmless says that nothing may be reported: the server writes such things
	// itself.
	harmless bool
	// class is that of the finding; empty is corruption.
	class string
}

// victim is what is damaged, of a stopped server.
type victim struct {
	data string
	// paths are the files of relations by their names.
	paths map[string]string
	// old are the contents of these files, and of their maps, before what was written
	// later, by path.
	old map[string][]byte
}

// relation finds the files of a relation.
func (c *victim) relation(name string) pgtest.Relation {
	path, ok := c.paths[strings.TrimPrefix(name, "lab.")]
	if !ok {
		panic("no relation " + name)
	}
	r := pgtest.Relation{Path: filepath.Join(c.data, path)}
	if info, err := os.Stat(r.Path); err == nil {
		r.Blocks = uint32(info.Size() / page.Size)
	}
	return r
}

// outcome is how a kind of damage came out.
type outcome struct {
	Area, Name string
	Version    int
	Checksums  bool
	// Result is found (the object and the class are right), near (a finding, but of
	// something else), missed, silent (as it must be), false alarm, crash, hang or
	// failed.
	Result string
	// Peers says the same of other programs: found, missed, crash or hang.
	Peers    map[string]string `json:",omitempty"`
	Checks   []string
	Findings []string
	Failed   []string
	Exit     int
	Seconds  float64
}

var versionsOf = pgtest.Versions

// areas are what PGTEST_LAB names, the way it is asked for in one run.
func areas(t *testing.T) func(area string) bool {
	t.Helper()
	if os.Getenv("PGTEST_LAB") == "" {
		t.Skip("set PGTEST_LAB to areas of damage, or to full")
	}
	list := strings.Split(os.Getenv("PGTEST_LAB"), ",")
	return func(area string) bool { return list[0] == "full" || slices.Contains(list, area) }
}

// seenBefore says that the program has looked at everything before the damage, and
// remembers it.
func seenBefore() bool { return os.Getenv("PGTEST_LAB_SEEN") != "" }

// builtProgram is what is tried: the program of PGTEST_LAB_BINARY, or one built now.
func builtProgram(t *testing.T) string {
	t.Helper()
	if binary := os.Getenv("PGTEST_LAB_BINARY"); binary != "" {
		return binary
	}
	binary := filepath.Join(t.TempDir(), "pg_integrity_exporter")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/pg_integrity_exporter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// chosen says of each kind in turn whether it is tried: PGTEST_LAB_ONLY is a pattern
// of names, and of n kinds PGTEST_LAB_SAMPLE=n tries one; PGTEST_LAB_SEED, a number,
// says which.
func chosen() func(name string) bool {
	only := regexp.MustCompile(os.Getenv("PGTEST_LAB_ONLY"))
	n, err := strconv.Atoi(os.Getenv("PGTEST_LAB_SAMPLE"))
	seed, seeded := strconv.ParseUint(os.Getenv("PGTEST_LAB_SEED"), 10, 64)
	if seeded != nil {
		seed = 1
	}
	random := rand.New(rand.NewPCG(uint64(n), seed))
	return func(name string) bool { return only.MatchString(name) && (err != nil || random.IntN(n) == 0) }
}

// outcomes are those of a test, written to the file of PGTEST_LAB_OUT as they come.
type outcomes struct {
	t   *testing.T
	mu  sync.Mutex
	all []outcome
}

func (l *outcomes) tell(o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, o)
	name := os.Getenv("PGTEST_LAB_OUT")
	if name == "" {
		return
	}
	line, err := json.Marshal(o)
	if err != nil {
		l.t.Error(err)
		return
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		l.t.Error(err)
		return
	}
	fmt.Fprintf(file, "%s\n", line)
	file.Close()
}

// print tells what was not found, for who reads the test's output.
func (l *outcomes) print() {
	for _, o := range l.all {
		if o.Result != "found" && o.Result != "silent" {
			l.t.Logf("%s %d %v: %s: %s: %s", o.Result, o.Version, o.Checksums, o.Area, o.Name, strings.Join(o.Findings, " | "))
		}
	}
}

func TestCampaign(t *testing.T) {
	wanted, binary, try := areas(t), builtProgram(t), chosen()
	list := slices.Concat(heapKinds(), toastKinds(), indexKinds(), fileKinds(), staleKinds())
	if wanted("catalog") {
		server := launch(t, versionsOf()[0], false, schema)
		more, err := catalogKindsOf(server)
		server.Close()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, more...)
	}
	kinds := slices.DeleteFunc(list, func(k kind) bool { return !wanted(k.area) || !try(k.area+": "+k.name) })
	results := outcomes{t: t}
	tell := results.tell
	slots := make(chan struct{}, 2)
	var running sync.WaitGroup
	for _, major := range versionsOf() {
		for _, checksums := range []bool{true, false} {
			if only := os.Getenv("PGTEST_LAB_CHECKSUMS"); only != "" && only != strconv.FormatBool(checksums) {
				continue
			}
			for batch := range slices.Chunk(slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return k.unit == "" }), unitsAtATime) {
				slots <- struct{}{}
				running.Go(func() {
					defer func() { <-slots }()
					runUnits(t, binary, major, checksums, batch, tell)
				})
			}
			for batch := range slices.Chunk(slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return k.unit != "" }), databasesAtATime) {
				slots <- struct{}{}
				running.Go(func() {
					defer func() { <-slots }()
					runDatabases(t, binary, major, checksums, batch, tell)
				})
			}
		}
	}
	running.Wait()
	results.print()
}

const (
	// unitsAtATime is how many schemas of one database are damaged at a time, and
	// databasesAtATime how many databases of one server.
	unitsAtATime     = 200
	databasesAtATime = 32
)

const pathsSQL = `SELECT n.nspname || '|' || c.relname || '|' || pg_relation_filepath(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE pg_relation_filepath(c.oid) IS NOT NULL
	UNION ALL SELECT n.nspname || '|' || c.relname || ' toast|' || pg_relation_filepath(c.reltoastrelid) || '|pg_toast_' || c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.reltoastrelid <> 0
	UNION ALL SELECT n.nspname || '|' || c.relname || ' toast index|' || pg_relation_filepath(i.indexrelid) || '|pg_toast_' || c.oid || '_index' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indrelid = c.reltoastrelid`

func lines(server *pgtest.Server, database, sql string) ([]string, error) {
	var text string
	err := server.Query(context.Background(), database, "SELECT coalesce(string_agg(x, E'\n'), '') FROM ("+sql+") AS q(x)", &text)
	return strings.Split(text, "\n"), err
}

// launch starts a server with a database lab.
func launch(t *testing.T, major int, checksums bool, script string) *pgtest.Server {
	options := pgtest.Config{Checksums: checksums, Settings: map[string]string{
		"autovacuum": "off", "max_prepared_transactions": "5", "track_commit_timestamp": "on",
		"shared_buffers": "32MB", "wal_level": "logical", "logging_collector": "off", "checkpoint_timeout": "1h", "max_wal_size": "4GB",
	}}
	var err error
	if options.Install, err = pgtest.Find(major); err != nil {
		t.Error(err)
		return nil
	}
	server, err := pgtest.Launch(t.Context(), options)
	if err != nil {
		t.Error(err)
		return nil
	}
	if err := server.Exec(t.Context(), "postgres", "CREATE DATABASE lab"); err != nil {
		t.Error(err)
	}
	for statement := range strings.SplitSeq(strings.TrimSpace(script), ";\n") {
		if err := server.Exec(t.Context(), "lab", statement); err != nil {
			t.Errorf("%v in %s", err, statement)
		}
	}
	return server
}

// common is what the units share.
const common = `CREATE EXTENSION amcheck;
CREATE EXTENSION pg_visibility;
CREATE SCHEMA lab;
CREATE TYPE lab.mood AS ENUM ('sad', 'calm', 'glad');
CREATE DOMAIN lab.positive AS int CHECK (value > 0);
CREATE FUNCTION lab.twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2';
`

// vacuumSQL lists the tables that VACUUM shall see.
const vacuumSQL = `SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname ~ '^d[0-9]+$' AND c.relkind IN ('r', 'm') AND c.relname %s`

// files are where the relations of each schema are, and whose the TOAST tables are.
type fileNames struct {
	paths map[string]map[string]string
	toast map[string]string
}

func findFiles(server *pgtest.Server, database string) (fileNames, error) {
	f := fileNames{make(map[string]map[string]string), make(map[string]string)}
	rows, err := lines(server, database, pathsSQL)
	for _, row := range rows {
		part := strings.Split(row, "|")
		if len(part) < 3 {
			continue
		}
		if f.paths[part[0]] == nil {
			f.paths[part[0]] = make(map[string]string)
		}
		f.paths[part[0]][part[1]] = part[2]
		if len(part) > 3 {
			f.toast[part[3]] = part[0]
		}
	}
	return f, err
}

// makeUnits makes a schema for each kind, with tables in every state that VACUUM
// leaves.
func makeUnits(t *testing.T, server *pgtest.Server, kinds []kind) {
	t.Helper()
	for i, k := range kinds {
		if err := server.Exec(t.Context(), "lab", fmt.Sprintf("CREATE SCHEMA d%d", i)); err != nil {
			t.Error(err)
		}
		for statement := range strings.SplitSeq(k.unit, ";\n") {
			if err := server.Exec(t.Context(), "lab", fmt.Sprintf("SET search_path = d%d, public; %s", i, statement)); err != nil {
				t.Errorf("%s: %v", k.name, err)
			}
		}
	}
	for where, options := range map[string]string{"= 'parent'": "(FREEZE, ANALYZE)", "NOT IN ('parent', 'busy')": "(ANALYZE)"} {
		tables, err := lines(server, "lab", fmt.Sprintf(vacuumSQL, where))
		if err == nil && tables[0] != "" {
			err = server.Exec(t.Context(), "lab", "VACUUM "+options+" "+strings.Join(tables, ", "))
		}
		if err != nil {
			t.Error(err)
		}
	}
	for i, k := range kinds { // rows that are still pending
		if strings.Contains(k.unit, "keys_gin") {
			if err := server.Exec(t.Context(), "lab", fmt.Sprintf("INSERT INTO d%d.keys SELECT g, ARRAY[1, g] FROM generate_series(20001, 20050) g", i)); err != nil {
				t.Error(err)
			}
		}
	}
}

// runUnits damages schemas of one database.
func runUnits(t *testing.T, binary string, major int, checksums bool, kinds []kind, tell func(outcome)) {
	kinds = slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return major < k.since })
	server := launch(t, major, checksums, common)
	if server == nil {
		return
	}
	defer server.Close()
	makeUnits(t, server, kinds)
	f, err := findFiles(server, "lab")
	if err != nil {
		t.Error(err)
	}
	lookBefore := func() {
		for _, finding := range program(t, binary, server, "--dsn="+server.DSN("lab"), "--database=lab", "--check=page").Findings {
			t.Errorf("%d, checksums %v, before the damage: %+v", major, checksums, finding)
		}
	}
	lookBefore()
	olds := writeLater(t, server, f, kinds)
	if seenBefore() {
		if err := server.Exec(t.Context(), "lab", "CHECKPOINT"); err != nil {
			t.Error(err)
		}
		lookBefore()
	}
	if err := server.Stop(pgtest.Fast); err != nil {
		t.Error(err)
		return
	}
	failed := make(map[int]error)
	for i, k := range kinds {
		if err := k.damage(&victim{data: server.DataDirectory, paths: f.paths[fmt.Sprintf("d%d", i)], old: olds[i]}); err != nil {
			failed[i] = err
		}
	}
	sums := checksumsOf(t, server, f, checksums)
	if err := server.StartAgain(t.Context()); err != nil {
		t.Error(err)
		return
	}
	found := program(t, binary, server, "--dsn="+server.DSN("lab"), "--database=lab", "--exclude=setting", "--exclude=cluster", "--exclude=leftover")
	for i, k := range kinds {
		o := outcome{Area: k.area, Name: k.name, Version: major, Checksums: checksums}
		if err := failed[i]; err != nil {
			o.Result, o.Findings = "not damaged", []string{err.Error()}
			tell(o)
			continue
		}
		mine := document{Checks: found.Checks, trouble: found.trouble, died: found.died, seconds: found.seconds, exit: found.exit}
		schema := fmt.Sprintf("d%d", i)
		for _, finding := range found.Findings {
			if finding.Schema == "pg_toast" && f.toast[finding.Relation] == schema {
				finding.Relation = "toast"
			} else if finding.Schema != schema && !strings.Contains(finding.Message, " "+schema+".") {
				continue
			}
			mine.Findings = append(mine.Findings, finding)
		}
		o.judge(mine, k)
		o.Peers = peersOf(t, server, schema, sums)
		tell(o)
	}
	for _, finding := range found.Findings {
		if finding.Schema == "" || !strings.HasPrefix(finding.Schema, "d") && finding.Schema != "pg_toast" {
			tell(outcome{Area: "stray", Name: kinds[0].area, Version: major, Checksums: checksums, Result: "other", Findings: []string{fmt.Sprintf("%+v", finding)}})
		}
	}
	for _, c := range found.Checks {
		if c.Outcome == "failed" {
			tell(outcome{Area: "stray", Name: kinds[0].area, Version: major, Checksums: checksums, Result: "failed", Findings: []string{c.Check + ": " + c.Reason}})
		}
	}
}

// writeLater copies the files of the kinds that put older ones back, and then writes
// what makes them older.
func writeLater(t *testing.T, server *pgtest.Server, f fileNames, kinds []kind) map[int]map[string][]byte {
	t.Helper()
	olds := make(map[int]map[string][]byte)
	if !slices.ContainsFunc(kinds, func(k kind) bool { return k.later != "" }) {
		return olds
	}
	if err := server.Exec(t.Context(), "lab", "CHECKPOINT"); err != nil {
		t.Error(err)
	}
	for i, k := range kinds {
		if k.later == "" {
			continue
		}
		olds[i] = make(map[string][]byte)
		for _, path := range f.paths[fmt.Sprintf("d%d", i)] {
			for _, fork := range []string{"", "_vm", "_fsm"} {
				path := filepath.Join(server.DataDirectory, path) + fork
				if content, err := os.ReadFile(path); err == nil {
					olds[i][path] = content
				}
			}
		}
		for statement := range strings.SplitSeq(k.later, ";\n") {
			if before, table, is := strings.Cut(statement, "VACUUM "); is && before == "" { // it runs in no transaction
				at := strings.LastIndexByte(table, ' ') + 1
				statement = fmt.Sprintf("VACUUM %sd%d.%s", table[:at], i, table[at:])
			} else {
				statement = fmt.Sprintf("SET search_path = d%d, public; %s", i, statement)
			}
			if err := server.Exec(t.Context(), "lab", statement); err != nil {
				t.Errorf("%s: %v", k.name, err)
			}
		}
	}
	return olds
}

// damage does what the kind is about.
func (k *kind) damage(c *victim) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	if k.do == nil {
		return nil
	}
	return k.do(c)
}

// runDatabases damages databases of one server.
func runDatabases(t *testing.T, binary string, major int, checksums bool, kinds []kind, tell func(outcome)) {
	kinds = slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return major < k.since })
	server := launch(t, major, checksums, schema)
	if server == nil {
		return
	}
	defer server.Close()
	strategy := ""
	if major >= 15 {
		strategy = " STRATEGY file_copy"
	}
	failed := make(map[int]error)
	victims := make([]*victim, len(kinds))
	for i, k := range kinds {
		name := fmt.Sprintf("d%d", i)
		if err := server.Exec(t.Context(), "postgres", "CREATE DATABASE "+name+" TEMPLATE lab"+strategy); err != nil {
			t.Error(err)
			return
		}
		f, err := findFiles(server, name)
		if err != nil {
			t.Error(err)
		}
		victims[i] = &victim{data: server.DataDirectory, paths: f.paths["pg_catalog"]}
		if k.sql != "" {
			failed[i] = server.Exec(t.Context(), name, "SET allow_system_table_mods = on; SET session_replication_role = replica; "+k.sql)
		}
	}
	if err := server.Stop(pgtest.Fast); err != nil {
		t.Error(err)
		return
	}
	for i, k := range kinds {
		if err := k.damage(victims[i]); err != nil {
			failed[i] = err
		}
	}
	if err := server.StartAgain(t.Context()); err != nil {
		t.Error(err)
		return
	}
	for i, k := range kinds {
		o := outcome{Area: k.area, Name: k.name, Version: major, Checksums: checksums}
		if err := failed[i]; err != nil {
			o.Result, o.Findings = "not damaged", []string{err.Error()}
			tell(o)
			continue
		}
		database := fmt.Sprintf("d%d", i)
		arguments := []string{"--dsn=" + server.DSN(database), "--database=" + database}
		if os.Getenv("PGTEST_LAB_FAST") != "" {
			arguments = append(arguments, "--check=files", "--check=page", "--check=catalog", "--check=leftover", "--check=cluster")
		}
		o.judge(program(t, binary, server, arguments...), k)
		tell(o)
	}
}

// document is what `check --output=json` prints.
type document struct {
	Checks []struct {
		Check, Database, Outcome, Reason string
	}
	Findings []struct {
		Check, Class, Severity, Database, Schema, Relation, Message string
		Block                                                       *uint32
	}
	trouble string
	died    []string
	seconds float64
	exit    int
}

// crashes are the processes of the server that died, with what they ran.
func crashes(server *pgtest.Server) []string {
	file, err := os.Open(filepath.Join(server.Directory, "output.log"))
	if err != nil {
		return nil
	}
	defer file.Close()
	var died []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.Contains(line, "was terminated by signal"):
			died = append(died, line)
		case strings.Contains(line, "Failed process was running: ") && len(died) > 0:
			died[len(died)-1] += line
		}
	}
	return died
}

const timeLimit = 15 * time.Minute

// program runs the program on a damaged server.
func program(t *testing.T, binary string, server *pgtest.Server, arguments ...string) document {
	before := crashes(server)
	ctx, cancel := context.WithTimeout(t.Context(), timeLimit)
	defer cancel()
	state := t.TempDir()
	if seenBefore() {
		state = filepath.Join(server.Directory, "state")
	}
	command := exec.CommandContext(ctx, binary, append([]string{"check", "--output=json", "--state.path=" + state}, arguments...)...)
	var out, messages bytes.Buffer
	command.Stdout, command.Stderr = &out, &messages
	started := time.Now()
	err := command.Run()
	d := document{seconds: time.Since(started).Seconds(), exit: command.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		d.trouble = "hang"
		return d
	}
	if e := json.Unmarshal(out.Bytes(), &d); e != nil {
		d.trouble = fmt.Sprintf("failed: %v %s", err, messages.String())
	}
	if after := crashes(server); len(after) > len(before) {
		d.trouble, d.died = "crash", after[len(before):]
		for range 100 {
			if server.Exec(t.Context(), "postgres", "SELECT 1") == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return d
}

// judge says how the damage came out.
func (o *outcome) judge(d document, k kind) {
	o.Exit, o.Seconds = d.exit, d.seconds
	if d.trouble != "" {
		o.Result, o.Failed = d.trouble, d.died
		return
	}
	class := k.class
	if class == "" {
		class = "corruption"
	}
	o.Result = "missed"
	if k.harmless {
		o.Result = "silent"
	}
	for _, c := range d.Checks {
		if c.Outcome == "failed" || c.Outcome == "skipped" || c.Reason != "" {
			o.Failed = append(o.Failed, c.Check+" "+c.Outcome+": "+c.Reason)
		}
	}
	for _, f := range d.Findings {
		block := ""
		if f.Block != nil {
			block = fmt.Sprintf(" %d", *f.Block)
		}
		o.Findings = append(o.Findings, fmt.Sprintf("[%s %s] %s.%s%s: %s", f.Check, f.Class, f.Schema, f.Relation, block, f.Message))
		if k.area != "cluster" && f.Class != class {
			continue
		}
		hit := slices.ContainsFunc(k.want, func(w string) bool {
			name := f.Relation
			if f.Schema == "pg_catalog" || f.Schema == "" {
				name = f.Schema + "." + name
			}
			return w == name || strings.HasSuffix(w, "*") && strings.HasPrefix(name, w[:len(w)-1])
		})
		switch {
		case k.harmless:
			o.Result = "false alarm"
		case hit:
			o.Result = "found"
			if !slices.Contains(o.Checks, f.Check) {
				o.Checks = append(o.Checks, f.Check)
			}
		case o.Result != "found":
			o.Result = "near"
		}
	}
}

var errNoPage = errors.New("no such page")
