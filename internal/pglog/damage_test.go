package pglog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// ruinKinds are the kinds of events that each of pgtest.Ruins must make.
var ruinKinds = map[string]EventKind{
	"checksum": InvalidPage, "header": InvalidPage, "missing": MissingFile, "forbidden": MissingFile, "directory": MissingFile,
	"device": Internal, "truncated": ShortRead, "beyond_eof": Internal,
	"xact": TransactionStatus, "multixact": TransactionStatus, "frozen": HeapTuple, "visibility": VisibilityMap,
	"toast_missing": Toast, "toast_number": Toast, "toast_size": Toast, "toast_index": IndexCorrupted, "pglz": Toast, "pglz_length": Suspect, "jsonb": Internal,
	"btree_zero": IndexCorrupted, "btree_meta": IndexCorrupted, "btree_far": ShortRead, "btree_sibling": IndexCorrupted,
	"hash_zero": IndexCorrupted, "hash_meta": IndexCorrupted, "gist_zero": IndexCorrupted, "brin_map": IndexCorrupted, "sequence": InvalidPage,
	"catalog_column": Catalog, "catalog_type": Suspect, "catalog_toast": Suspect, "future": PageLSN,
}

// TestDamageMessages damages real servers of every version in every way that
// pgtest knows, lets statements run into it, and holds what the servers say
// against the table of messages.
func TestDamageMessages(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Checksums(), pgtest.Setting("autovacuum", "off"))
		damageSays(t, server, "C")
	})
}

// TestTranslatedDamage does the same with a server that speaks other languages.
func TestTranslatedDamage(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("another server")
	}
	install := pgtest.Install{BinDir: "/usr/lib/postgresql/15/bin", Major: 15, Version: "15-debian"}
	languages := []string{"de_DE.utf8", "fr_FR.utf8", "ja_JP.utf8", "ru_RU.utf8", "zh_CN.utf8"}
	locales, err := exec.Command("locale", "-a").Output()
	if _, missing := os.Stat("/usr/share/locale/de/LC_MESSAGES/postgres-15.mo"); missing != nil || err != nil {
		t.Skip("no server with translations is installed")
	}
	for _, language := range languages {
		if !slices.Contains(strings.Fields(string(locales)), language) {
			t.Skipf("the system does not have %s: localedef -i %s -f UTF-8 %s", language, language[:5], language)
		}
	}
	server, err := pgtest.Launch(t.Context(), pgtest.Config{Install: install, Checksums: true, Settings: map[string]string{
		"autovacuum": "off", "logging_collector": "on", "log_destination": "csvlog", "log_directory": "log", "log_filename": "server.log",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	damageSays(t, server, languages...)
}

// damageSays damages a server and reads what it says of it in each of some
// languages.
func damageSays(t *testing.T, server *pgtest.Server, languages ...string) {
	t.Helper()
	ruins := server.Ruined(t)
	server.Harm(t, ruins)
	for _, language := range languages {
		conn, err := pgx.Connect(t.Context(), server.DSN(pgtest.RuinsDatabase)+"&lc_messages="+language)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range ruins {
			// The name of the application tells the messages apart. How a statement ends
			// is in the log.
			for _, statement := range append([]string{"RESET ALL", "SET application_name = '" + r.Name + "." + language + "'"}, r.Statements()...) {
				_, _ = conn.PgConn().Exec(t.Context(), statement).ReadAll()
			}
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_ = server.Exec(t.Context(), "postgres", "SELECT 'the last one'::int") // an error, behind which nothing is missing
	pgtest.Await(t, "the last message", 20*time.Second, func() bool {
		return slices.ContainsFunc(server.LogFiles(), func(path string) bool {
			content, err := os.ReadFile(path)
			return err == nil && bytes.Contains(content, []byte("the last one"))
		})
	})
	events := make(map[string][]Event)
	said := make(map[string][]string)
	for _, path := range server.LogFiles() {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d := newDecoder(Input{Format: CSVLog}, func(m *Message) {
			if isQuiet(m.severity, m.sqlstate) {
				return
			}
			by := m.Application()
			if m.Backend() == "checkpointer" || m.Backend() == "background writer" {
				by = "future." + languages[0]
			}
			said[by] = append(said[by], fmt.Sprintf("%s %s %s", m.Severity(), m.SQLState(), m.Text()))
			if event, ok := eventOf(m, m.Severity(), m.SQLState()); ok {
				events[by] = append(events[by], event)
			}
		})
		for len(content) > 0 {
			n := copy(d.space(), content)
			content = content[n:]
			d.advance(n)
		}
		d.flush(true)
	}
	for _, r := range ruins {
		for _, language := range languages {
			if r.Once && language != languages[0] {
				continue
			}
			by := r.Name + "." + language
			at := slices.IndexFunc(events[by], func(e Event) bool { return e.Kind == ruinKinds[r.Name] })
			if at < 0 {
				t.Errorf("%s: no event %s, but %+v for:\n%s", by, ruinKinds[r.Name], events[by], strings.Join(said[by], "\n"))
				continue
			}
			if e := events[by][at]; !pointsAt(t, server, e, r) {
				t.Errorf("%s: %s is not found by %s %q of:\n%s", by, r.Damaged, describeObject(e.Object), e.Mentioned, e.Text)
			}
		}
	}
	if os.Getenv("DAMAGE_SAYS") != "" {
		for _, by := range slices.Sorted(maps.Keys(said)) {
			t.Logf("%s:\n\t%s", by, strings.Join(said[by], "\n\t"))
		}
	}
}

// pointsAt says whether an event tells what is damaged.
func pointsAt(t *testing.T, server *pgtest.Server, e Event, r pgtest.Ruin) bool {
	t.Helper()
	var found bool
	const sql = `SELECT coalesce(bool_or(pg_relation_filenode(c.oid) = $1 OR c.oid = $2 OR c.relname = $3), false) FROM pg_class c
		WHERE c.relname IN ($4, $5) AND c.relnamespace IN ('ruin'::regnamespace, 'pg_toast'::regnamespace)`
	if err := server.Query(t.Context(), pgtest.RuinsDatabase, sql, &found, e.Object.Filenode, e.Object.OID, e.Object.Name, r.Damaged, r.Name); err != nil {
		t.Fatal(err)
	}
	return found || slices.Contains(e.Mentioned, r.Name)
}

// TestKnownMessages holds that every text of the table is one of the servers of
// the versions that are supported, as their programs have it.
func TestKnownMessages(t *testing.T) {
	t.Parallel()
	if len(pgtest.Versions()) != len(pgtest.Supported()) {
		t.Skip("some texts are of one version only")
	}
	missing := make(map[string]bool, len(knownMessages))
	for _, known := range knownMessages {
		missing[known.text] = true
	}
	for _, major := range pgtest.Supported() {
		install, err := pgtest.Find(major)
		if err != nil {
			t.Skip(err)
		}
		for _, program := range programs(t, install) {
			for text := range missing {
				if formatIn(program, text) {
					delete(missing, text)
				}
			}
		}
	}
	// Servers built with lz4, and older minor versions.
	delete(missing, "compressed lz4 data is corrupt")
	delete(missing, "unexpected chunk size %u (expected %u) in final chunk %u for toast value %u in %s")
	for text := range missing {
		t.Errorf("no server says: %s", text)
	}
}

// programs are the server's program and the libraries that check or read data.
func programs(t *testing.T, install pgtest.Install) [][]byte {
	t.Helper()
	paths := []string{filepath.Join(install.BinDir, "postgres")}
	for _, pattern := range []string{"lib/amcheck.so", "lib/postgresql/amcheck.so", "lib/pageinspect.so", "lib/postgresql/pageinspect.so"} {
		found, err := filepath.Glob(filepath.Join(install.BinDir, "..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	var contents [][]byte
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, content)
	}
	return contents
}

// formatIn says whether a program has a text as a format of printf.
func formatIn(program []byte, text string) bool {
	// A directory in a path is not part of the format.
	text = regexp.MustCompile(`"(?:base|global|pg_tblspc)/%s"`).ReplaceAllString(text, `"%s"`)
	parts := conversion.Split(text, -1)
	longest := slices.MaxFunc(parts, func(a, b string) int { return len(a) - len(b) })
	pattern := regexp.QuoteMeta(text)
	pattern = regexp.MustCompile(`%[uX]`).ReplaceAllString(pattern, `%[-+ #0-9.]*[a-zA-Z]{1,3}`)
	whole := regexp.MustCompile(`^` + strings.ReplaceAll(pattern, "%s", `.+`))
	for at := 0; ; {
		i := bytes.Index(program[at:], []byte(longest))
		if i < 0 {
			return false
		}
		i += at
		start := bytes.LastIndexByte(program[:i], 0) + 1
		end := i + bytes.IndexByte(program[i:], 0)
		if whole.Match(program[start:end]) {
			return true
		}
		at = i + len(longest)
	}
}

// TestLoggedDamage lets VACUUM run into an index whose links are damaged, which it
// logs at level LOG, and goes on.
func TestLoggedDamage(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("autovacuum", "off"))
		server.MustExec(t, "postgres", "CREATE TABLE links (id int PRIMARY KEY)")
		server.MustExec(t, "postgres", "INSERT INTO links SELECT generate_series(1, 4000)")
		index := server.MustRelation(t, "postgres", "links_pkey")
		server.WhileDown(t, func() error {
			return index.EditValid(2, func(p []byte) { binary.LittleEndian.PutUint32(p[page.Size-16:], 77) })
		})
		server.MustExec(t, "postgres", "DELETE FROM links WHERE id < 500")
		failed := server.Exec(t.Context(), "postgres", "VACUUM links")
		r := newReader()
		defer r.follow(filepath.Join(server.LogDirectory(), "*.csv"))()
		await(t, "the event", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return slices.ContainsFunc(r.events, func(e Event) bool { return e.Kind == IndexCorrupted && e.Object.Name == "links_pkey" })
		})
		r.mu.Lock()
		defer r.mu.Unlock()
		if counted := r.counts[Counter{Kind: CountErrors, Database: "postgres", SQLState: "XX002"}]; failed == nil && counted > 0 {
			t.Errorf("what is logged at level LOG counts as %d errors", counted)
		}
		t.Logf("VACUUM: %v, %+v", failed, r.events)
	})
}
