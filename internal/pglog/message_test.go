package pglog

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
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
			Severity: read[csvSeverity], SQLState: read[csvSQLState], Database: read[csvDatabase], Text: read[csvMessage],
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
	if !frame.parse(record, &m) {
		t.Fatalf("not parsed: %q", record)
	}
	valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	if got, want := m.Text(), valid(want.Text); got != want && len(want) <= maxText {
		t.Errorf("message %q, want %q", got, want)
	}
	if got, want := m.Database(), valid(want.Database); got != want {
		t.Errorf("database %q, want %q", got, want)
	}
	if got, want := m.Application(), valid(want.Application); got != want {
		t.Errorf("application %q, want %q", got, want)
	}
	if got := m.Backend(); got != want.Backend {
		t.Errorf("backend %q, want %q", got, want.Backend)
	}
	if len(want.SQLState) == 5 && isPlain(want.SQLState) && m.SQLState() != want.SQLState {
		t.Errorf("SQLSTATE %q, want %q", m.SQLState(), want.SQLState)
	}
}

// isPlain says that a text is made of what SQLSTATEs are made of.
func isPlain(s string) bool {
	return strings.Trim(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// FuzzBytes holds that nothing in a log makes the reader fail, and that every
// byte belongs to exactly one record.
func FuzzBytes(f *testing.F) {
	f.Add([]byte("{\"error_severity\":\"ERROR\",\"state_code\":\"22012\"}\n{}\nnonsense\n\x00\xff\n"), true)
	f.Add([]byte("a,\"b\n\"\"c\",d\n,,,\n\"open"), false)
	f.Fuzz(func(t *testing.T, data []byte, isJSON bool) {
		frame := framing{format: CSVLog}
		if isJSON {
			frame.format = JSONLog
		}
		counted := counts{databases: make(map[string]bool), delta: make(map[Counter]uint64)}
		var m Message
		whole := frame
		for rest := data; ; {
			end := frame.next(rest, 0)
			if end < 0 {
				break
			}
			if end == 0 || end > len(rest) || rest[end-1] != '\n' {
				t.Fatalf("a record of %d bytes in %q", end, rest)
			}
			if frame.parse(rest[:end], &m) {
				counted.add(&m)
			}
			rest = rest[end:]
		}
		// The end of the first record is the same however the bytes arrive.
		want := whole.next(data, 0)
		pieces := framing{format: frame.format}
		got, looked := -1, 0
		for have := 1; have <= len(data) && got < 0; have++ {
			got = pieces.next(data[:have], looked)
			looked = have
		}
		if got != want {
			t.Fatalf("byte by byte the first record ends at %d, at once at %d: %q", got, want, data)
		}
	})
}

func message(severity, sqlstate, backend, text, context string) []byte {
	line, err := json.Marshal(jsonRecord{Severity: severity, SQLState: sqlstate, Backend: backend, Text: text, Context: context, Database: "erp"})
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
		{"ERROR", "XX001", client, `missing chunk number 0 for toast value 16400 in pg_toast_16390`, "", Toast, Object{}},
		{"FEHLER", "XX001", client, `ungültige Seite in Block 3 von Relation »base/16384/16390«`, "", DataCorrupted, Object{Path: "base/16384/16390", Database: 16384, Filenode: 16390, Block: new(uint32(3))}},
		{"ERROR", "XX002", client, `index "accounts_pkey" contains unexpected zero page at block 4`, "", IndexCorrupted, Object{Name: "accounts_pkey", Block: new(uint32(4))}},
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
		{"ERROR", "42501", client, `permission denied for table postings`, "", "", Object{}},
		{"ERROR", "XX000", client, `tuple concurrently updated`, "", "", Object{}},
		{"ERROR", "XX000", client, `cache lookup failed for relation 16390`, "", "", Object{}},
		{"ERROR", "XX001", client, `the books are corrupted`, "PL/pgSQL function ledger.check() line 3 at RAISE", "", Object{}},
		{"ERROR", "P0001", client, `invalid page in block 3 of relation base/16384/16390`, "", "", Object{}},
		{"LOG", "00000", client, `statement: SELECT 'server process (PID 1) was terminated by signal 11'`, "", "", Object{}},
		{"LOG", "00000", "postmaster", `server process (PID 4711) was terminated by signal 15: Terminated`, "", "", Object{}},
		{"WARNING", "01000", client, `there is no transaction in progress`, "", "", Object{}},
	} {
		counted := counts{databases: make(map[string]bool), delta: make(map[Counter]uint64)}
		var m Message
		frame := framing{format: JSONLog}
		if !frame.parse(message(c.severity, c.sqlstate, c.backend, c.text, c.context), &m) {
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
	errorLabels := make(map[ErrorLabel]bool)
	for _, label := range ErrorLabels() {
		errorLabels[label] = true
	}
	messageLabels := make(map[MessageLabel]bool)
	for _, label := range MessageLabels() {
		messageLabels[label] = true
	}
	for _, sqlstate := range []string{"22012", "XX001", "42P01", "40P01", "99999", "", "P0001", "57014", "HV000", "ab", "\"\",,x", "01000"} {
		if label := ErrorLabelOf(sqlstate); !errorLabels[label] {
			t.Errorf("%s gives the unlisted label %v", sqlstate, label)
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
	line := message("ERROR", "23505", "client backend", `duplicate key value violates unique constraint "accounts_pkey"`, "")
	var row bytes.Buffer
	row.WriteString(`2026-11-23 10:00:00.000 UTC,"app","erp",4711,"127.0.0.1:5000",6563.1,3,"INSERT",2026-11-23 09:00:00 UTC,4/12,771,ERROR,23505,"duplicate key value violates unique constraint ""accounts_pkey""","Key (account_id)=(1) already exists.",,,,,"INSERT INTO ledger.accounts VALUES (1)",,,"psql","client backend",,0` + "\n")
	var m Message
	b.Run("json/ours", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			frame := framing{format: JSONLog}
			if !frame.parse(line[:frame.next(line, 0)], &m) {
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
			if !frame.parse(row.Bytes()[:frame.next(row.Bytes(), 0)], &m) {
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
