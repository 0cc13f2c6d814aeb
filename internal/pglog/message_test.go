package pglog

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"
)

// jsonRecord has the keys of jsonlog in the order in which the server writes
// them.
type jsonRecord struct {
	Timestamp   string `json:"timestamp"`
	Database    string `json:"dbname,omitempty"`
	PID         int    `json:"pid"`
	Line        int    `json:"line_num"`
	Severity    string `json:"error_severity"`
	SQLState    string `json:"state_code,omitempty"`
	Text        string `json:"message"`
	Detail      string `json:"detail,omitempty"`
	Context     string `json:"context,omitempty"`
	Application string `json:"application_name,omitempty"`
	Backend     string `json:"backend_type"`
	QueryID     int64  `json:"query_id"`
}

// records are seeds with everything that makes parsing hard.
var records = []jsonRecord{
	{Severity: "ERROR", SQLState: "XX001", Database: "erp", Text: `invalid page in block 3 of relation "base/5/16390"`, Backend: "client backend"},
	{Severity: "LOG", Text: "", Backend: "checkpointer"},
	{Severity: "FEHLER", SQLState: "22012", Database: `d"b`, Text: "Teilung durch Null ÄÖ \U0001F600 \\ \" \b\f\n\r\t \x01", Application: `a,"b"`, Detail: `{"x": [1, 2]}`},
	{Severity: "ERROR", SQLState: "P0001", Text: strings.Repeat(`\"`, 500) + `"`, Context: "PL/pgSQL function f() line 3 at RAISE"},
}

func FuzzJSON(f *testing.F) {
	for _, r := range records {
		f.Add(r.Severity, r.SQLState, r.Database, r.Text, r.Detail, r.Application)
	}
	f.Fuzz(func(t *testing.T, severity, sqlstate, database, text, detail, application string) {
		for _, s := range []string{severity, sqlstate, database, text, detail, application} {
			if !utf8.ValidString(s) {
				return
			}
		}
		want := jsonRecord{
			Timestamp: "2026-01-02 03:04:05.678 UTC", Severity: severity, SQLState: sqlstate, Database: database,
			Text: text, Detail: detail, Application: application, Backend: "client backend",
		}
		line, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		checkRecord(t, JSONLog, append(line, '\n'), want)
	})
}

func FuzzCSV(f *testing.F) {
	for _, r := range records {
		f.Add(r.Severity, r.SQLState, r.Database, r.Text, r.Detail, r.Application)
	}
	f.Fuzz(func(t *testing.T, severity, sqlstate, database, text, detail, application string) {
		if severity == "" || len(sqlstate) != 5 || !isPlain(sqlstate) {
			return
		}
		fields := make([]string, 26)
		fields[csvSeverity], fields[csvSQLState], fields[csvDatabase], fields[csvMessage] = severity, sqlstate, database, text
		fields[14], fields[csvApplication], fields[csvBackend] = detail, application, "client backend"
		var record bytes.Buffer
		// The server quotes every field of text.
		for i, field := range fields {
			if i > 0 {
				record.WriteByte(',')
			}
			if field != "" {
				record.WriteString(`"` + strings.ReplaceAll(field, `"`, `""`) + `"`)
			}
		}
		record.WriteByte('\n')
		read, err := csv.NewReader(bytes.NewReader(record.Bytes())).Read()
		if err != nil || strings.Contains(record.String(), "\r") {
			return // encoding/csv drops carriage returns, the server does not
		}
		checkRecord(t, CSVLog, record.Bytes(), jsonRecord{
			Severity: read[csvSeverity], SQLState: read[csvSQLState], Database: read[csvDatabase], Text: read[csvMessage], Detail: read[csvDetail],
			Application: read[csvApplication], Backend: read[csvBackend],
		})
	})
}

// checkRecord holds our reading of a record against the one of the standard
// library.
func checkRecord(t *testing.T, format Format, record []byte, want jsonRecord) {
	t.Helper()
	frame := framing{format: format}
	if end := frame.next(record, 0); end != len(record) {
		t.Fatalf("the record has %d of %d bytes: %q", end, len(record), record)
	}
	var m Message
	if frame.parse(record, &m) != message {
		t.Fatalf("not parsed: %q", record)
	}
	valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	if got, want := m.Text(), valid(want.Text); got != want && len(want) <= maxText {
		t.Errorf("message %q, want %q", got, want)
	}
	if got, want := m.Database(), valid(want.Database); got != want {
		t.Errorf("database %q, want %q", got, want)
	}
	if isQuiet(m.severity, m.sqlstate) {
		return // nothing behind the message is read
	}
	if got, want := m.Application(), valid(want.Application); got != want {
		t.Errorf("application %q, want %q", got, want)
	}
	if got := m.Backend(); got != want.Backend {
		t.Errorf("backend %q, want %q", got, want.Backend)
	}
	if got, want := m.Detail(), valid(want.Detail); got != want && len(want) <= maxText {
		t.Errorf("detail %q, want %q", got, want)
	}
	if len(want.SQLState) == 5 && isPlain(want.SQLState) && m.SQLState() != want.SQLState {
		t.Errorf("SQLSTATE %q, want %q", m.SQLState(), want.SQLState)
	}
}

// isPlain says that a text is made of what SQLSTATEs are made of.
func isPlain(s string) bool {
	return strings.Trim(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// written makes every line of a test another one, as time does in a real log.
var written atomic.Int64

func jsonLine(severity, sqlstate, backend, text, context string) []byte {
	stamp := time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC).Add(time.Duration(written.Add(1)) * time.Millisecond)
	line, err := json.Marshal(jsonRecord{Timestamp: stamp.Format("2006-01-02 15:04:05.000 MST"), Severity: severity, SQLState: sqlstate, Backend: backend, Text: text, Context: context, Database: "erp"})
	if err != nil {
		panic(err)
	}
	return append(line, '\n')
}

// TestEvents has the words of real servers. What is not damage must stay
// silent, whoever chose its SQLSTATE.
func TestEvents(t *testing.T) {
	const client = "client backend"
	for _, c := range []struct {
		severity, sqlstate, backend, text, context string
		want                                       EventKind
		object                                     Object
	}{
		{"WARNING", "XX001", client, "page verification failed, calculated checksum 28591 but expected 26711", "", Checksum, Object{}},
		{"WARNING", "01000", client, "page verification failed, calculated checksum 28591 but expected 26711", "", Checksum, Object{}},
		{"ERROR", "XX001", client, `invalid page in block 3 of relation base/16384/16390`, "", InvalidPage, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(3))}},
		{"ERROR", "XX001", client, `invalid page in block 0 of relation pg_tblspc/16401/PG_15_202209061/16384/16402`, "", InvalidPage, Object{Path: "pg_tblspc/16401/PG_15_202209061/16384/16402", Tablespace: 16401, Database: 16384, Filenode: 16402, Block: new(uint32(0))}},
		{"ERROR", "XX001", client, `could not read block 7 in file "base/16384/16390": read only 0 of 8192 bytes`, "", ShortRead, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(7))}},
		{"ERROR", "XX001", client, `missing chunk number 0 for toast value 16400 in pg_toast_16390`, "", Toast, Object{OID: 16390}},
		{"FEHLER", "XX001", client, `ungültige Seite in Block 3 von Relation »base/16384/16390«`, "", InvalidPage, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(3))}},
		{"ERROR", "XX002", client, `index "accounts_pkey" contains unexpected zero page at block 4`, "", IndexCorrupted, Object{Name: "accounts_pkey", Block: new(uint32(4))}},
		{"LOG", "XX002", "autovacuum worker", `right sibling's left-link doesn't match: right sibling 3 of target 2 with leafblkno 2 and scanblkno 2 spuriously links to non-target 1 on level 0 of index "accounts_pkey"`, "while vacuuming", IndexCorrupted, Object{Name: "accounts_pkey"}},
		{"LOG", "XX002", client, `index "accounts_pkey" is bad`, "PL/pgSQL function f() line 3 at RAISE", "", Object{}},
		{"WARNING", "XX002", client, `cannot reindex invalid index "public.accounts_pkey" concurrently, skipping`, "", "", Object{}},
		{"ERROR", "XX000", client, `invalid memory alloc request size 18446744073709551613`, "", Internal, Object{}},
		{"ERROR", "58P01", client, `could not open file "base/16384/16390": No such file or directory`, "", MissingFile, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390}},
		{"ERROR", "58P01", client, `could not access status of transaction 1000000`, "", TransactionStatus, Object{}},
		{"ERROR", "58030", client, `could not read block 1 in file "base/16384/16390": Input/output error`, "", IOError, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(1))}},
		{"WARNING", "01000", "autovacuum worker", `page is not marked all-visible but visibility map bit is set in relation "postings" page 5`, "", VisibilityMap, Object{Name: "postings", Block: new(uint32(5))}},
		{"PANIC", "58P01", "startup", `could not locate a valid checkpoint record`, "", PanicStop, Object{}},
		{"LOG", "00000", "postmaster", `server process (PID 4711) was terminated by signal 11: Segmentation fault`, "", ServerCrash, Object{}},
		{"LOG", "00000", "postmaster", `server process (PID 4711) was terminated by signal 9: Killed`, "", BackendKilled, Object{}},
		{"LOG", "00000", "startup", `database system was not properly shut down; automatic recovery in progress`, "", CrashRecovery, Object{}},

		{"ERROR", "58P01", client, `could not open file "/home/erp/import.csv" for reading: No such file or directory`, "", "", Object{}},
		{"ERROR", "58P01", client, `could not access file "$libdir/nothere": No such file or directory`, "", "", Object{}},
		{"ERREUR", "42501", client, "n'a pas pu ouvrir le fichier « base/16384/16407 » : Permission non accordée", "", MissingFile, Object{Path: "base/16384/16407", Database: 16384, Filenode: 16407}},
		{"ERROR", "42501", client, `permission denied for table postings`, "", "", Object{}},
		{"ERROR", "XX000", client, `tuple concurrently updated`, "", "", Object{}},
		{"ERROR", "XX000", client, `invalid memory alloc request size 1200000003`, "", Suspect, Object{}},
		{"ERROR", "XX000", client, `cache lookup failed for relation 16390`, "", Suspect, Object{OID: 16390}},
		{"ERROR", "XX000", client, `could not open relation with OID 16390`, "", Suspect, Object{OID: 16390}},
		{"ERROR", "XX000", client, `xlog flush request 5/A0000028 is not satisfied --- flushed only to 0/1A3B0D8`, "writing block 3 of relation base/16384/16390", PageLSN, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(3))}},
		{"ERROR", "XX001", "autovacuum worker", `found xmin 3 from before relfrozenxid 731`, "while scanning block 7 offset 3 of relation \"ledger.postings\"\nautomatic vacuum of table \"erp.ledger.postings\"", HeapTuple, Object{Schema: "ledger", Name: "postings", Block: new(uint32(7))}},
		{"ERROR", "XX001", client, `missing chunk number 0 for toast value 16400 in pg_toast_16390`, "SQL statement \"SELECT memo -- at RAISE PL/pgSQL RAISE\"\nPL/pgSQL function f() line 3 at SQL statement", Toast, Object{OID: 16390}},
		{"PANIC", "58030", "checkpointer", `could not fsync file "base/16384/16390": Input/output error`, "", IOError, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390}},
		{"LOG", "00000", "archiver", `archive command failed with exit code 1`, "", ArchiveFailure, Object{}},
		{"WARNING", "01000", "archiver", `archiving write-ahead log file "000000010000000000000003" failed too many times, will try again later`, "", ArchiveFailure, Object{Name: "000000010000000000000003"}},
		{"FATAL", "F0000", "startup", `could not locate required checkpoint record`, "", StartFailure, Object{}},
		{"LOG", "00000", "postmaster", `Serverprozess (PID 4711) wurde von Signal 11 beendet: Speicherzugriffsfehler`, "", ServerCrash, Object{}},

		{"ERROR", "XX001", client, `the books are corrupted`, "PL/pgSQL function ledger.check() line 3 at RAISE", "", Object{}},
		{"ERREUR", "XX001", client, `page invalide dans le bloc 3 de la relation base/16384/16390`, "", InvalidPage, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(3))}},
		{"ОШИБКА", "XX001", client, `не удалось прочитать блок 7 в файле "base/16384/16390" (прочитано байт: 0 из 8192)`, "", ShortRead, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(7))}},
		{"ERROR", "XX001", client, `リレーションbase/16384/16390のブロック3に不正なページ`, "", InvalidPage, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(3))}},
		{"WARNUNG", "XX001", client, `Seitenüberprüfung fehlgeschlagen, berechnete Prüfsumme 28591, aber erwartet 26711`, "", Checksum, Object{}},
		{"오류", "XX001", client, `3 블록(해당 릴레이션: base/16384/16390)에 잘못된 페이지가 있음`, "", InvalidPage, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(3))}},
		{"错误", "58P01", client, `无法打开文件 "base/16384/16390": 没有那个文件或目录`, "", MissingFile, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390}},
		{"ОШИБКА", "XX002", client, `в индексе "accounts_pkey" неожиданно оказалась нулевая страница в блоке 4`, "", IndexCorrupted, Object{Name: "accounts_pkey", Block: new(uint32(4))}},
		{"LOG", "00000", "postmaster", `серверный процесс (PID 4711) был завершён по сигналу 9: Убито`, "", BackendKilled, Object{}},

		{"ERROR", "XX001", client, `Daten kaputt`, "PL/pgSQL-Funktion ledger.check() Zeile 3 bei RAISE", "", Object{}},
		{"ERROR", "XX001", client, `数据损坏`, "在第3行的PL/pgSQL函数check()的RAISE", "", Object{}},
		{"ERROR", "XX000", client, `missing chunk number 0 for toast value 1 in pg_toast_2 at line 3.`, `PL/Perl function "f"`, Suspect, Object{OID: 2}},
		{"ERROR", "22P02", client, `invalid input syntax for type integer: "invalid page in block 3 of relation base/16384/16390"`, "", "", Object{}},
		{"ERROR", "22021", client, `invalid byte sequence for encoding "UTF8": 0xff`, "", "", Object{}},
		{"ERROR", "53100", client, `could not extend file "base/16384/16390": No space left on device`, "", "", Object{}},
		{"ERROR", "58P01", "walsender", `requested WAL segment 000000010000000000000003 has already been removed`, "", "", Object{}},
		{"FATAL", "57P01", "startup", `terminating process due to administrator command`, "", "", Object{}},
		{"FATAL", "3D000", client, `database "invalid page in block 3 of relation base/1/2" does not exist`, "", "", Object{}},
		{"LOG", "00000", "postmaster", `background worker "logical replication launcher" (PID 4711) exited with exit code 1`, "", "", Object{}},
		{"ERROR", "P0001", client, `invalid page in block 3 of relation base/16384/16390`, "", "", Object{}},
		{"LOG", "00000", client, `statement: SELECT 'server process (PID 1) was terminated by signal 11'`, "", "", Object{}},
		{"LOG", "00000", "postmaster", `server process (PID 4711) was terminated by signal 15: Terminated`, "", "", Object{}},
		{"WARNING", "01000", client, `there is no transaction in progress`, "", "", Object{}},
	} {
		counted := newCounts(NewLabels(nil, nil, nil))
		var m Message
		frame := framing{format: JSONLog}
		if frame.parse(jsonLine(c.severity, c.sqlstate, c.backend, c.text, c.context), &m) != message {
			t.Fatalf("not parsed: %s", c.text)
		}
		counted.add(&m)
		if c.want == "" {
			if len(counted.events) > 0 {
				t.Errorf("false alarm %s for: %s", counted.events[0].Kind, c.text)
			}
			continue
		}
		if len(counted.events) != 1 || counted.events[0].Kind != c.want {
			t.Errorf("%v instead of %s for: %s", counted.events, c.want, c.text)
			continue
		}
		if got, want := describeObject(counted.events[0].Object), describeObject(c.object); got != want {
			t.Errorf("object %s, want %s, of: %s", got, want, c.text)
		}
	}
}

func describeObject(o Object) string {
	text, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// TestLabelsAreClosed holds that whatever stands in a log gets one of the
// labels that are initialised at 0.
func TestLabelsAreClosed(t *testing.T) {
	states := make(map[string]bool)
	for _, c := range Conditions() {
		states[c.SQLState] = true
		if c.Name == "" || c.Meaning == "" || !slices.Contains(Categories(), c.Category) {
			t.Errorf("%s is not described: %+v", c.SQLState, c)
		}
	}
	messageLabels := make(map[MessageLabel]bool)
	for _, label := range MessageLabels() {
		messageLabels[label] = true
	}
	for _, sqlstate := range []string{"22012", "XX001", "42P01", "40P01", "99999", "", "P0001", "57014", "HV000", "ab", "\"\",,x", "01000", UnknownState} {
		if c := ConditionOf(sqlstate); !states[c.SQLState] {
			t.Errorf("%s gives the unlisted condition %v", sqlstate, c)
		}
		for _, severity := range []Severity{Error, Fatal, Panic, Warning} {
			if label := MessageLabelOf(severity, sqlstate); !messageLabels[label] {
				t.Errorf("%s %s gives the unlisted label %v", severity, sqlstate, label)
			}
		}
	}
}

// BenchmarkParse reads records of jsonlog beside encoding/json and those of
// csvlog beside encoding/csv.
func BenchmarkParse(b *testing.B) {
	line := jsonLine("ERROR", "23505", "client backend", `duplicate key value violates unique constraint "accounts_pkey"`, "")
	var row bytes.Buffer
	row.WriteString(`2026-11-23 10:00:00.000 UTC,"app","erp",4711,"127.0.0.1:5000",6563.1,3,"INSERT",2026-11-23 09:00:00 UTC,4/12,771,ERROR,23505,"duplicate key value violates unique constraint ""accounts_pkey""","Key (account_id)=(1) already exists.",,,,,"INSERT INTO ledger.accounts VALUES (1)",,,"psql","client backend",,0` + "\n")
	var m Message
	b.Run("json/ours", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			frame := framing{format: JSONLog}
			if frame.parse(line[:frame.next(line, 0)], &m) != message {
				b.Fatal("not parsed")
			}
		}
	})
	b.Run("json/encoding_json", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			var record jsonRecord
			if err := json.Unmarshal(line, &record); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("csv/ours", func(b *testing.B) {
		b.SetBytes(int64(row.Len()))
		b.ReportAllocs()
		for b.Loop() {
			frame := framing{format: CSVLog}
			if frame.parse(row.Bytes()[:frame.next(row.Bytes(), 0)], &m) != message {
				b.Fatal("not parsed")
			}
		}
	})
	b.Run("csv/encoding_csv", func(b *testing.B) {
		b.SetBytes(int64(row.Len()))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := csv.NewReader(bytes.NewReader(row.Bytes())).Read(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestDocumentation holds the tables of docs/logs.md to the lists.
func TestDocumentation(t *testing.T) {
	content, err := os.ReadFile("../../docs/logs.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	for _, c := range Conditions() {
		line := fmt.Sprintf("| `%s` | %s | %s | %s |", c.SQLState, c.Name, c.Category, c.Meaning)
		if !strings.Contains(page, line) {
			t.Errorf("docs/logs.md lacks\n%s", line)
		}
	}
	for _, kind := range slices.Concat(CorruptionKinds(), ServerEventKinds()) {
		if !strings.Contains(page, "`"+string(kind)+"`") {
			t.Errorf("docs/logs.md lacks the kind %s", kind)
		}
	}
	for _, reason := range BlindReasons() {
		if !strings.Contains(page, "| `"+reason+"` |") {
			t.Errorf("docs/logs.md lacks the reason %s", reason)
		}
	}
}
