package pglog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// benchmarkSize is how long the logs of the benchmarks are.
const benchmarkSize = 64 << 20

// benchmarkLog writes a log of a busy server: nine statements logged for each
// error. It gives the file and the number of errors.
func benchmarkLog(b *testing.B, format Format) (path string, failed uint64) {
	b.Helper()
	const stamp = "2026-11-25 09:00:00.123 UTC"
	const statement = `INSERT INTO ledger.postings (account, amount, memo) VALUES (4711, 12.50, ''rent \"November\", paid'') RETURNING id`
	var quiet, loud string
	switch format {
	case JSONLog:
		record := `{"timestamp":"` + stamp + `","user":"app","dbname":"erp","pid":4711,"remote_host":"10.0.0.1","remote_port":50000,"session_id":"6925a1b0.1267","line_num":3,"ps":"INSERT","session_start":"` + stamp + `","vxid":"4/12","txid":0,"error_severity":"%s","state_code":"%s","message":"%s","detail":"Key (id)=(1) already exists.","statement":"` + statement + `","application_name":"app","backend_type":"client backend","query_id":0}` + "\n"
		quiet, loud = fmt.Sprintf(record, "LOG", "00000", "duration: 0.123 ms  statement: "+statement), fmt.Sprintf(record, "ERROR", "23505", `duplicate key value violates unique constraint \"postings_pkey\"`)
	case CSVLog:
		text := strings.ReplaceAll(statement, `\"`, `""`)
		record := stamp + `,"app","erp",4711,"10.0.0.1:50000",6925a1b0.1267,3,"INSERT",` + stamp + `,4/12,0,%s,%s,"%s","Key (id)=(1) already exists.",,,,,"` + text + `",,,"app","client backend",,0` + "\n"
		quiet, loud = fmt.Sprintf(record, "LOG", "00000", "duration: 0.123 ms  statement: "+text), fmt.Sprintf(record, "ERROR", "23505", `duplicate key value violates unique constraint ""postings_pkey""`)
	default:
		prefix := stamp + " [4711] %s client backend db=erp,user=app,app=app "
		quiet = fmt.Sprintf(prefix, "00000") + "LOG:  duration: 0.123 ms  statement: " + statement + "\n"
		loud = fmt.Sprintf(prefix, "23505") + `ERROR:  duplicate key value violates unique constraint "postings_pkey"` + "\n" +
			fmt.Sprintf(prefix, "23505") + "DETAIL:  Key (id)=(1) already exists.\n" + fmt.Sprintf(prefix, "23505") + "STATEMENT:  " + statement + "\n"
	}
	block := []byte(strings.Repeat(quiet, 9) + loud)
	path = filepath.Join(b.TempDir(), "server")
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	writer := bufio.NewWriterSize(file, 1<<20)
	for written := 0; written < benchmarkSize; written += len(block) {
		if _, err := writer.Write(block); err != nil {
			b.Fatal(err)
		}
		failed++
	}
	if err := errors.Join(writer.Flush(), file.Close()); err != nil {
		b.Fatal(err)
	}
	return path, failed
}

// BenchmarkLog reads a log of each format from the page cache: as the exporter
// does, counting its lines and nothing else, with the parsers of the standard
// library, with jq, and with mtail and an equivalent program.
func BenchmarkLog(b *testing.B) {
	for _, format := range []Format{JSONLog, CSVLog, Stderr} {
		path, failed := benchmarkLog(b, format)
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		run := func(name string, read func(b *testing.B, file *os.File) (errors uint64)) {
			b.Run(string(format)+"/"+name, func(b *testing.B) {
				b.SetBytes(info.Size())
				before := cpuTime(b)
				for b.Loop() {
					file, err := os.Open(path)
					if err != nil {
						b.Fatal(err)
					}
					if got := read(b, file); got != failed {
						b.Fatalf("%d errors of %d", got, failed)
					}
					if err := file.Close(); err != nil {
						b.Fatal(err)
					}
				}
				// What a core does, also on a machine that is busy with something else.
				used := cpuTime(b) - before
				b.ReportMetric(float64(info.Size())*float64(b.N)/1e6/used.Seconds(), "MB/cpu-s")
			})
		}
		run("ours", func(b *testing.B, file *os.File) uint64 { return readOurs(b, file, format) })
		run("lines", func(b *testing.B, file *os.File) uint64 { countLines(b, file); return failed })
		switch format {
		case JSONLog:
			run("encoding_json", readJSON)
			run("jq", func(b *testing.B, _ *os.File) uint64 { return readJQ(b, path) })
		case CSVLog:
			run("encoding_csv", readCSV)
		default:
		}
		run("mtail", func(b *testing.B, _ *os.File) uint64 { return readMtail(b, path, format) })
	}
}

// cpuTime is what this process and those that it has run have used.
func cpuTime(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if err := syscall.Getrusage(who, &usage); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return sum
}

func readOurs(b *testing.B, file *os.File, format Format) (failed uint64) {
	b.Helper()
	counted := newCounts(NewLabels(nil, nil, nil))
	input := Input{Format: format, Prefixes: new(Prefixes)}
	if err := input.Prefixes.Add("%m [%p] %e %b %qdb=%d,user=%u,app=%a "); err != nil {
		b.Fatal(err)
	}
	d := newDecoder(input, counted.add)
	for {
		n, err := file.Read(d.space())
		d.advance(n)
		if err != nil {
			break
		}
	}
	d.flush(true)
	for counter, n := range counted.batch("", Position{}, false).Counts {
		if counter.Kind == CountErrors {
			failed += n
		}
	}
	return failed
}

func countLines(b *testing.B, file *os.File) (lines int) {
	b.Helper()
	buffer := make([]byte, bufferSize)
	for {
		n, err := file.Read(buffer)
		lines += bytes.Count(buffer[:n], []byte{'\n'})
		if err != nil {
			return lines
		}
	}
}

func readJSON(b *testing.B, file *os.File) (failed uint64) {
	b.Helper()
	for decoder := json.NewDecoder(file); ; {
		var record jsonRecord
		if err := decoder.Decode(&record); err != nil {
			return failed
		}
		if record.Severity == "ERROR" {
			failed++
		}
	}
}

func readCSV(b *testing.B, file *os.File) (failed uint64) {
	b.Helper()
	reader := csv.NewReader(file)
	reader.ReuseRecord = true
	for {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return failed
		}
		if err != nil {
			b.Fatal(err)
		}
		if record[csvSeverity] == "ERROR" {
			failed++
		}
	}
}

// tool finds a program, or skips.
func tool(b *testing.B, name string) string {
	b.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		b.Skip(name + " is not installed")
	}
	return path
}

func readJQ(b *testing.B, path string) uint64 {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), tool(b, "jq"), "-n", `reduce inputs as $r (0; if $r.error_severity == "ERROR" then . + 1 else . end)`, path).Output()
	if err != nil {
		b.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// mtailPatterns find severity, SQLSTATE and database in a line.
var mtailPatterns = map[Format]string{
	JSONLog: `"dbname":"(?P<database>[^"]*)".*"error_severity":"(?P<severity>ERROR|FATAL|PANIC|WARNING)","state_code":"(?P<sqlstate>[0-9A-Z]{5})"`,
	CSVLog:  `^[^,]*,"[^"]*","(?P<database>[^"]*)",.*,(?P<severity>ERROR|FATAL|PANIC|WARNING),(?P<sqlstate>[0-9A-Z]{5}),`,
	Stderr:  `^\S+ \S+ \S+ \[\d+\] (?P<sqlstate>[0-9A-Z]{5}) .*db=(?P<database>[^,]*),.* (?P<severity>ERROR|FATAL|PANIC|WARNING):  `,
}

func readMtail(b *testing.B, path string, format Format) uint64 {
	b.Helper()
	mtail := tool(b, "mtail")
	program := filepath.Join(b.TempDir(), "errors.mtail")
	text := "counter errors by severity, sqlstate, database\n/" + mtailPatterns[format] + "/ {\n  errors[$severity][$sqlstate][$database]++\n}\n"
	if err := os.WriteFile(program, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, mtail, "--one_shot", "--one_shot_format=prometheus", "--logs", path, "--progs", program, "--logtostderr=false", "--log_dir", b.TempDir())
	out, err := command.Output()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "errors{") {
			fields := strings.Fields(line)
			n, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return uint64(n)
		}
	}
	b.Fatalf("mtail counted nothing:\n%s", out)
	return 0
}
