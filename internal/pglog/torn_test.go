package pglog

import (
	"os"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// tornLog is what a real server logs of statements and messages that make it hard
// to tell where a record ends.
func tornLog(t *testing.T, major int, format pgtest.Option) string {
	t.Helper()
	server := pgtest.Start(t, pgtest.Version(major), format, pgtest.Setting("log_error_verbosity", "verbose"), pgtest.Setting("log_min_messages", "warning"))
	const forged = "2026-11-30 08:00:00.123 UTC,,,28920,,6b0d2caf.70f8,1,,2026-11-30 08:00:00 UTC,,0,ERROR,XX001,\"forged\",,,,,,,,,\"\",\"x\",,0"
	const json = `{"timestamp":"2026-11-30 08:00:00.123 UTC","error_severity":"ERROR","state_code":"XX001","message":"forged"}`
	for _, statement := range []string{
		"SELECT 1/0",
		"SELECT\n\t1/0 -- \"quoted\"\n",
		`SELECT * FROM "no ""such"", table"`,
		"SELECT '" + forged + "\n" + forged + "'::int",
		"SELECT '" + json + "\n" + json + "'::int",
		"DO $$BEGIN RAISE EXCEPTION E'\"one\" UTC,\\n\"two\", UTC,\\n' USING DETAIL = '\"', HINT = '\"\"', ERRCODE = '22012'; END$$",
		"DO $$BEGIN RAISE WARNING ''; RAISE WARNING ','; RAISE WARNING '\"'; END$$",
		"SELECT 'ä日本'::int",
	} {
		_ = server.Exec(t.Context(), "postgres", statement) // most of them fail, and so are logged
	}
	pgtest.Await(t, "the last message", 20*time.Second, func() bool {
		files := server.LogFiles()
		if len(files) != 1 {
			return false
		}
		content, err := os.ReadFile(files[0])
		return err == nil && strings.Contains(string(content), "日本")
	})
	content, err := os.ReadFile(server.LogFiles()[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// split splits a log into its records.
func split(log string, format Format) (records []string) {
	frame := framing{format: format}
	for log != "" {
		end := frame.next([]byte(log), 0)
		if end < 0 {
			break
		}
		records, log = append(records, log[:end]), log[end:]
	}
	return records
}

// TestTornRecords leaves the end of a record away, at every byte of it, as a
// server does that is killed while it writes, and holds that all others are read,
// and that the bytes of this one count as lost where it does not tell what it was.
func TestTornRecords(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		tornAnywhere(t, CSVLog, tornLog(t, major, pgtest.CSVLog()))
		if major >= 15 {
			tornAnywhere(t, JSONLog, tornLog(t, major, pgtest.JSONLog()))
		}
	})
}

func tornAnywhere(t *testing.T, format Format, log string) {
	t.Helper()
	records := split(log, format)
	all, failures := decode(t, Input{Format: format}, strings.Join(records, ""), 1<<20)
	if len(all) != len(records) || len(all) < 15 || failures > 0 {
		t.Fatalf("%d messages of %d records, %d failures", len(all), len(records), failures)
	}
	var torn tornReader
	torn.decoder = newDecoder(Input{Format: format}, func(m *Message) { torn.read(m) })
	torn.decoder.lose = func(n int64) { torn.lost += n }
	for i, record := range records {
		next := (i + 1 + i%5) % len(records)
		for format == CSVLog && strings.Trim(all[next].text, `,"`) == "" {
			next = (next + 1) % len(records) // cannot be told from the inside of a field
		}
		for k := 1; k < len(record); k++ {
			torn.once(t, records[0]+record[:k]+records[next]+records[0], []told{all[0], all[next], all[0]}, all[i], k)
			// Nothing follows: the server has begun another file.
			torn.once(t, records[next]+record[:k], []told{all[next]}, all[i], k)
		}
	}
}

// tornReader reads logs with one torn record.
type tornReader struct {
	decoder *decoder
	read    func(m *Message)
	lost    int64
}

// once reads a log with one torn record of n bytes.
func (r *tornReader) once(t *testing.T, log string, whole []told, torn told, n int) {
	t.Helper()
	got, cut := 0, 0
	r.lost = 0
	r.read = func(m *Message) {
		switch this := tell(m); {
		case got < len(whole) && this == whole[got]:
			got++
		case this.severity == torn.severity && (torn.severity == Quiet || this.sqlstate == torn.sqlstate):
			cut++
		default:
			t.Errorf("%q is read as %+v", log, this)
		}
	}
	size := len(log)
	if n%5 == 0 {
		size = 1 + n%97
	}
	for rest := log; rest != ""; {
		read := copy(r.decoder.space(), rest[:min(len(rest), size)])
		rest = rest[read:]
		r.decoder.advance(read)
	}
	r.decoder.flush(true)
	if got != len(whole) || cut > 1 || (cut == 0) != (r.lost == int64(n)) {
		t.Fatalf("%q: %d of %d messages, the torn one %d times, %d of its %d bytes lost", log, got, len(whole), cut, r.lost, n)
	}
}
