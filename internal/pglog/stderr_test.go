package pglog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// told is what a message says, for comparison.
type told struct {
	severity                                                            Severity
	sqlstate, database, user, application, backend, text, detail, where string
}

func tell(m *Message) told {
	return told{
		m.Severity(), m.SQLState(), m.Database(), m.User(), m.Application(), m.Backend(), m.Text(), m.Detail(), m.Context(),
	}
}

// decode reads a whole log in pieces of at most size bytes and flushes it. It
// gives the messages and checks that every byte is accounted for.
func decode(t *testing.T, input Input, log string, size int) (messages []told, failures uint64) {
	t.Helper()
	d := newDecoder(input, func(m *Message) { messages = append(messages, tell(m)) })
	done := int64(0)
	for rest := log; rest != ""; {
		n := copy(d.space(), rest[:min(len(rest), size)])
		if n == 0 {
			t.Fatal("no space for more")
		}
		rest = rest[n:]
		done += d.advance(n)
		if read := int64(len(log) - len(rest)); done+d.pending() != read {
			t.Fatalf("%d bytes done and %d pending of %d read", done, d.pending(), read)
		}
	}
	done += d.flush(true)
	if done != int64(len(log)) {
		t.Fatalf("%d of %d bytes done", done, len(log))
	}
	return messages, d.failures
}

func stderrInput(t testing.TB, prefixes ...string) Input {
	t.Helper()
	input := Input{Prefixes: new(Prefixes)}
	for _, p := range prefixes {
		if err := input.Prefixes.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	return input
}

// TestPrefixes reads lines as the server writes them with many settings of
// log_line_prefix.
func TestPrefixes(t *testing.T) {
	for _, c := range []struct {
		prefix, line string
		want         told
	}{
		{"%m [%p] ", `2026-11-25 09:00:00.123 UTC [4711] ERROR:  division by zero`, told{severity: Error, sqlstate: UnknownState, text: "division by zero"}},
		{"%m [%p] %e ", `2026-11-25 09:00:00.123 UTC [4711] 22012 ERROR:  division by zero`, told{severity: Error, sqlstate: "22012", text: "division by zero"}},
		{"%t [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h,state=%e ", `2026-11-25 09:00:00 +0330 [4711]: [3-1] user=joe,db=erp,app=psql,client=[local],state=22012 ERROR:  division by zero`, told{Error, "22012", "erp", "joe", "psql", "", "division by zero", "", ""}},
		{"%m [%p] %e %q%u@%d ", `2026-11-25 09:00:00.123 Europe [4711] 00000 LOG:  checkpoint starting: time`, told{severity: Quiet, sqlstate: "00000", text: "checkpoint starting: time"}},
		{"%m [%p] %e %q%u@%d ", `2026-11-25 09:00:00.123 CET [4711] XX001 joe@erp ERROR:  invalid page`, told{Error, "XX001", "erp", "joe", "", "", "invalid page", "", ""}},
		{"<%n %P %b %c %s %v %x %r %i %Q %e %d> ", `<1764061200.123 12 parallel worker 6925a1b0.1267 2026-11-25 09:00:00 UTC 3/17 0 10.0.0.1(4711) CREATE TABLE -17 42P07 e r p> ERROR:  relation "t" already exists`, told{severity: Error, sqlstate: "42P07", database: "e r p", backend: "parallel worker", text: `relation "t" already exists`}},
		{"%8p|%-8p|%10d|%-10a|%e|", `    4711|4711    |       erp|psql      |22012|ERROR:  x`, told{severity: Error, sqlstate: "22012", database: "erp", application: "psql", text: "x"}},
		{"%d %u %e ", `a database ERROR:  x [1] b joe 22012 FATAL:  no`, told{severity: Fatal, sqlstate: "22012", database: "a", user: "database ERROR:  x [1] b joe", text: "no"}},
		{"%%%e%z %k", `%22012 ERROR:  x`, told{severity: Error, sqlstate: "22012", text: "x"}},
		{"", `ERROR:  x: ERROR:  y`, told{severity: Error, sqlstate: UnknownState, text: "x: ERROR:  y"}},
		{"%e ", `22012 FEHLER:  Division durch Null`, told{severity: Error, sqlstate: "22012", text: "Division durch Null"}},
		{"%e ", "22012 \xef\xdb\xe9\xe2\xeb\xe1:  \xe4\xe5\xec\xe5\xee\xe9\xe5", told{severity: Error, sqlstate: "22012", text: "\uFFFD"}}, // Russian in KOI8-R
		{"%e ", `22012 致命错误:  x`, told{severity: Fatal, sqlstate: "22012", text: "x"}},
		{"%e ", `22012 ERREUR:  x`, told{severity: Error, sqlstate: "22012", text: "x"}},
		{"%m %a %e ", "2026-11-25 09:00:00.123 UTC old prefix ERROR:  nothing of it matches", told{severity: Error, sqlstate: UnknownState, text: "nothing of it matches"}},
	} {
		input := stderrInput(t, c.prefix)
		input.Format = Stderr
		got, failures := decode(t, input, c.line+"\n", 1<<20)
		if len(got) != 1 || failures != 0 || got[0] != c.want {
			t.Errorf("prefix %q\nline   %s\ngot    %+v\nwant   %+v", c.prefix, c.line, got, c.want)
		}
	}
	for _, wrong := range []string{"%99999999999p", "%--3p"} {
		if err := new(Prefixes).Add(wrong); err == nil {
			t.Errorf("the prefix %q is taken", wrong)
		}
	}
}

const stderrLog = "2026-11-25 09:00:00.123 UTC [1] 00000 LOG:  starting\n" +
	"2026-11-25 09:00:00.124 UTC [2] XX001 ERROR:  XX001: invalid page in block 3 of relation base/5/16390\n" +
	"\tsecond line ERROR:  no message\n" +
	"2026-11-25 09:00:00.124 UTC [2] XX001 DETAIL:  some\n\tmore\n" +
	"2026-11-25 09:00:00.124 UTC [2] XX001 CONTEXT:  SQL function\n" +
	"2026-11-25 09:00:00.124 UTC [2] XX001 LOCATION:  ReadBuffer_common, bufmgr.c:1100\n" +
	"2026-11-25 09:00:00.124 UTC [2] XX001 STATEMENT:  SELECT 1\n\tFROM t -- FATAL:  no message\n" +
	"cp: cannot stat 'x'\n" +
	"2026-11-25 09:00:00.125 UTC [3] 22012 FATAL:  last\n"

var stderrMessages = []told{
	{severity: Quiet, sqlstate: "00000", text: "starting"},
	{severity: Error, sqlstate: "XX001", text: "invalid page in block 3 of relation base/5/16390\nsecond line ERROR:  no message", detail: "some\nmore", where: "SQL function"},
	{severity: Fatal, sqlstate: "22012", text: "last"},
}

// wrapped are logs that hold the same messages in every wrapping.
func wrapped() map[string]string {
	lines := strings.SplitAfter(strings.TrimSuffix(stderrLog, "\n"), "\n")
	var docker, cri, syslog, modern strings.Builder
	for i, line := range lines {
		line = strings.TrimSuffix(line, "\n")
		escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`).Replace(line)
		if i == 1 { // in two parts
			fmt.Fprintf(&docker, `{"log":"%s","stream":"stderr","time":"2026-11-25T09:00:00Z"}`+"\n", escaped[:30])
			fmt.Fprintf(&cri, "2026-11-25T09:00:00.1Z stderr P %s\n", line[:30])
			escaped, line = escaped[30:], line[30:]
		}
		fmt.Fprintf(&docker, `{"log":"%s\n","stream":"stderr","time":"2026-11-25T09:00:00Z"}`+"\n", escaped)
		fmt.Fprintf(&cri, "2026-11-25T09:00:00.1Z stderr F %s\n", line)
	}
	part := 0
	for i, line := range lines {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "cp:") {
			fmt.Fprintf(&syslog, "Nov 25 09:00:00 host cron[9]: %s\n", line)
			continue
		}
		if part++; i == 0 || i == len(lines)-1 || i == 1 {
			part = 1
		}
		number := fmt.Sprintf("[%d-%d]", i, part)
		fmt.Fprintf(&syslog, "Nov 25 09:00:00 host postgres[7]: %s %s\n", number, strings.Replace(line, "\t", "#011", 1))
		fmt.Fprintf(&modern, "<131>1 2026-11-25T09:00:00.1Z host postgres 7 - - %s %s\n", number, line)
	}
	return map[string]string{"bare": stderrLog, "docker": docker.String(), "cri": cri.String(), "syslog": syslog.String(), "syslog 5424": modern.String()}
}

// TestWrappings reads the same messages bare, from Docker, from Kubernetes and
// from syslog, in pieces of any size.
func TestWrappings(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for name, log := range wrapped() {
		t.Run(name, func(t *testing.T) {
			for range 50 {
				got, _ := decode(t, stderrInput(t, "%m [%p] %e "), log, 1+random.IntN(len(log)))
				if len(got) != len(stderrMessages) {
					t.Fatalf("%d messages: %+v\nin\n%s", len(got), got, log)
				}
				for i := range got {
					if got[i] != stderrMessages[i] {
						t.Fatalf("got  %+v\nwant %+v", got[i], stderrMessages[i])
					}
				}
			}
		})
	}
}

// TestInterleavedSyslog reads messages of many lines that several processes write at
// once, also with a restart in between: each message is whole, and counts once.
func TestInterleavedSyslog(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 7))
		type source struct{ lines []string }
		var sources []source
		want := make(map[told]int)
		for pid := range 1 + random.IntN(5) {
			var s source
			for n := range 1 + random.IntN(6) {
				text, where := fmt.Sprintf("message %d of %d", n, pid), ""
				var parts []string
				for part := range random.IntN(5) {
					parts = append(parts, fmt.Sprintf("\tline %d", part))
					text += fmt.Sprintf("\nline %d", part)
				}
				head := fmt.Sprintf("2026-11-25 09:00:00.123 UTC [%d] 22012 ", pid)
				parts = append([]string{head + "ERROR:  " + strings.SplitN(text, "\n", 2)[0]}, parts...)
				if random.IntN(2) == 0 {
					where = "SQL function"
					parts = append(parts, head+"CONTEXT:  "+where)
				}
				for i, part := range parts {
					s.lines = append(s.lines, fmt.Sprintf("Nov 25 09:00:00 host postgres[%d]: [%d-%d] %s\n", pid, n, i+1, strings.Replace(part, "\t", "#011", 1)))
				}
				want[told{severity: Error, sqlstate: "22012", text: text, where: where}]++
			}
			sources = append(sources, s)
		}
		var log strings.Builder
		for len(sources) > 0 {
			i := random.IntN(len(sources))
			if random.IntN(4) == 0 {
				log.WriteString("Nov 25 09:00:00 host cron[9]: something\n")
			}
			log.WriteString(sources[i].lines[0])
			if sources[i].lines = sources[i].lines[1:]; len(sources[i].lines) == 0 {
				sources = slices.Delete(sources, i, i+1)
			}
		}
		got := make(map[told]int)
		read := func(log string, final bool) (done int64) {
			d := newDecoder(stderrInput(t, "%m [%p] %e "), func(m *Message) { got[tell(m)]++ })
			for rest := log; rest != ""; {
				n := copy(d.space(), rest[:min(len(rest), 1+random.IntN(500))])
				rest = rest[n:]
				done += d.advance(n)
				if seen := int64(len(log) - len(rest)); done+d.pending() != seen {
					t.Fatalf("seed %d: %d bytes done and %d pending of %d read", seed, done, d.pending(), seen)
				}
			}
			if final {
				done += d.flush(true)
			}
			return done
		}
		cut := random.IntN(log.Len())
		done := read(log.String()[:cut], false)
		if rest := log.String()[done:]; read(rest, true) != int64(len(rest)) {
			t.Errorf("seed %d: not all of it is done", seed)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: got\n%v, want\n%v in\n%s", seed, got, want, log.String())
		}
	}
}

// TestCloudNativePG reads PostgreSQL's records in the log of the operator's
// instance manager, and leaves the manager's own alone.
func TestCloudNativePG(t *testing.T) {
	const log = `{"level":"info","ts":"2026-11-25T09:00:00Z","logger":"setup","msg":"Starting","version":"1"}
{"level":"info","ts":"2026-11-25T09:00:00Z","logger":"postgres","msg":"record","logging_pod":"c-1","record":{"log_time":"2026-11-25 09:00:00 UTC","user_name":"app","database_name":"erp","process_id":"1","error_severity":"ERROR","sql_state_code":"XX001","message":"invalid page in block 3 of relation base/5/16390","detail":"d","context":"c","query":"SELECT \"}\"","application_name":"psql","backend_type":"client backend","query_id":"0"}}
`
	want := []told{{Error, "XX001", "erp", "app", "psql", "client backend", "invalid page in block 3 of relation base/5/16390", "d", "c"}}
	for name, line := range map[string]string{"bare": log, "cri": strings.ReplaceAll("2026-11-25T09:00:00.1Z stdout F "+strings.TrimSuffix(log, "\n"), "\n", "\n2026-11-25T09:00:00.1Z stdout F ") + "\n"} {
		got, failures := decode(t, Input{}, line, 100)
		if len(got) != 1 || got[0] != want[0] || failures != 0 {
			t.Errorf("%s: %+v, %d failures", name, got, failures)
		}
	}
}

// TestRaisedWithoutState holds that words of users do not count as damage when
// the log does not tell the SQLSTATE, and the server's own do.
func TestRaisedWithoutState(t *testing.T) {
	for log, want := range map[string]EventKind{
		"[1] ERROR:  invalid page in block 3 of relation base/5/16390\n":                                                      InvalidPage,
		"[1] FEHLER:  ungültige Seite in Block 3 von Relation base/5/16390\n":                                                 "",
		"[1] ERROR:  invalid input syntax for type integer: \"invalid page in block 3 of relation base/5/16390\"\n":           "",
		"[1] ERROR:  invalid page in block 3 of relation base/5/16390\n[1] CONTEXT:  PL/pgSQL function f() line 1 at RAISE\n": "",
		"[1] ERROR:  XX001: made up\n": "",
		"[1] ERROR:  XX001: made up\n[1] LOCATION:  exec_stmt_raise, pl_exec.c:3900\n":                                                      "",
		"[1] FEHLER:  XX001: ungültige Seite in Block 3 von Relation base/5/16390\n[1] ORT:  WaitReadBuffers, bufmgr.c:1500\n":              InvalidPage,
		"[1] LOG:  server process (PID 4711) was terminated by signal 11: Segmentation fault\n[1] DETAIL:  Failed process was running: x\n": ServerCrash,
		"[1] LOG:  statement: SELECT '(PID 4711) was terminated by signal 11: x'\n":                                                         "",
	} {
		counted := newCounts(NewLabels(nil, nil, nil))
		input := stderrInput(t, "[%p] ")
		input.Format = Stderr
		d := newDecoder(input, counted.add)
		d.advance(copy(d.space(), log))
		d.flush(true)
		var got EventKind
		if len(counted.events) > 0 {
			got = counted.events[0].Kind
		}
		if got != want {
			t.Errorf("%q instead of %q for %s", got, want, log)
		}
	}
}

// FuzzDecoder holds that nothing in a log makes a reader fail, that every byte
// belongs to exactly one record, and that the messages are the same however the
// bytes arrive.
func FuzzDecoder(f *testing.F) {
	for _, log := range wrapped() {
		f.Add(log, uint8(7))
	}
	f.Add("{\"error_severity\":\"ERROR\",\"state_code\":\"22012\",\"message\":\"x\"}\n{}\nnonsense\n\x00\xff\n", uint8(1))
	f.Add("2026-11-25 09:00:00.123 UTC,\"a\",\"erp\",,,,,,,,,ERROR,22012,\"x\n\"\"y\",,,,,,,,,,\n,,,\n\"open", uint8(3))
	f.Add("2026-11-25T09:00:00.1Z stderr P {\"log\":\"2026-11-25T09:00:00.1Z stderr P x\n<1>Nov 25 09:00:00 h postgres[1]: [1-1] x\n", uint8(2))
	f.Fuzz(func(t *testing.T, log string, size uint8) {
		input := stderrInput(t, "%m [%p] %e %q%a %d ")
		whole, _ := decode(t, input, log, 1<<20)
		pieces, _ := decode(t, input, log, int(size)+1)
		if len(whole) != len(pieces) {
			t.Fatalf("%d messages at once, %d in pieces of %d: %q", len(whole), len(pieces), int(size)+1, log)
		}
		for i := range whole {
			if whole[i] != pieces[i] {
				t.Fatalf("at once %+v, in pieces %+v", whole[i], pieces[i])
			}
		}
	})
}

// FuzzPrefix holds that a line written with a prefix is read back.
func FuzzPrefix(f *testing.F) {
	f.Add("joe", "erp", "psql", "22012", 7, false)
	f.Add("", "a b", "x ERROR:  y", "XX001", -7, true)
	f.Fuzz(func(t *testing.T, user, database, application, sqlstate string, width int, session bool) {
		for _, s := range []string{user, database, application} {
			if len(s) > 63 || strings.ContainsAny(s, "\n\t|\x00") || !isPlain(strings.ToUpper(s)) {
				return
			}
		}
		if len(sqlstate) != 5 || !isPlain(sqlstate) || width < -30 || width > 30 || width == 0 {
			return
		}
		prefix := fmt.Sprintf("%%m [%%p] %%e %%q|%%u|%%%dd|%%a| ", width)
		line := "2026-11-25 09:00:00.123 UTC [4711] " + sqlstate + " "
		want := told{severity: Panic, sqlstate: sqlstate, text: "text"}
		if session {
			line += fmt.Sprintf("|%s|%*s|%s| ", user, width, database, application)
			want.user, want.database, want.application = user, database, application
		}
		input := stderrInput(t, prefix)
		input.Format = Stderr
		got, _ := decode(t, input, line+"PANIC:  text\n", 1<<20)
		if len(got) != 1 || got[0] != want {
			t.Fatalf("%q is read as %+v", line, got)
		}
	})
}
