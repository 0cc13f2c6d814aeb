package check_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// lookEvery is the interval of the check rows.
const lookEvery = 5 * time.Minute

// day is a day of a business, told in minutes since the first midnight.
type day struct {
	minute int
	random *rand.Rand
	sql    []string
}

func (d *day) dof(format string, args ...any) { d.sql = append(d.sql, fmt.Sprintf(format, args...)) }

// at says that it is this time of the day.
func (d *day) at(hour, minute int) bool { return d.minute%1440 == hour*60+minute }

// number is how often something happens in this look that happens perHour times
// by day, and a tenth of that at night.
func (d *day) number(perHour float64) int {
	if hour := d.minute / 60 % 24; hour < 7 || hour >= 19 {
		perHour /= 10
	}
	return int(perHour/12*(0.5+d.random.Float64()) + d.random.Float64())
}

// habit is a table and what is usual for it.
type habit struct {
	table string
	what  string
	// rows are there before the first day, and since how many days.
	rows, since int
	// at is what is done to it in one look.
	at func(d *day)
	// told is how often it may be told of at most, because its habit is only known
	// once it was seen.
	told int
}

const habitRows = "INSERT INTO %s SELECT nextval('ids'), %d, repeat('x', 50) FROM generate_series(1, %d)"

func habits() []habit {
	grow := func(table string, perHour float64) func(d *day) {
		return func(d *day) { d.dof(habitRows, table, d.minute, d.number(perHour)) }
	}
	return []habit{
		{"postings", "grows all day", 20000, 365, grow("postings", 400), 0},
		{"accounts", "grows slowly, a row in ten is updated an hour", 20000, 365, func(d *day) {
			d.dof(habitRows, "accounts", d.minute, d.number(10))
			d.dof("UPDATE accounts SET made = %d WHERE id %% 120 = %d", d.minute, d.minute/5%120)
		}, 0},
		{"sessions", "expire after two hours, cleaned every 5 minutes", 0, 0, func(d *day) {
			d.dof(habitRows, "sessions", d.minute, d.number(1500))
			d.dof("DELETE FROM sessions WHERE made < %d", d.minute-120)
		}, 0},
		{"tokens", "expire after a day, cleaned once an hour", 0, 0, func(d *day) {
			d.dof(habitRows, "tokens", d.minute, d.number(1000))
			if d.minute%60 == 0 {
				d.dof("DELETE FROM tokens WHERE made < %d", d.minute-1440)
			}
		}, 0},
		{"queue", "filled in bursts and emptied", 0, 0, func(d *day) {
			d.dof(habitRows, "queue", d.minute, d.number(600))
			if d.random.IntN(12) == 0 {
				d.dof(habitRows, "queue", d.minute, 2000+d.random.IntN(2000))
			}
			d.dof("DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id LIMIT 900)")
		}, 1},
		{"staging", "truncated and loaded again every night", 5000, 1, func(d *day) {
			if d.at(2, 0) {
				d.dof("TRUNCATE staging")
			}
			if d.at(2, 5) {
				d.dof(habitRows, "staging", d.minute, 5000+d.random.IntN(500))
			}
		}, 1},
		{"cache", "deleted and filled again in one transaction every hour", 3000, 1, func(d *day) {
			if d.minute%60 == 30 {
				d.dof("BEGIN; DELETE FROM cache; "+habitRows+"; COMMIT", "cache", d.minute, 3000+d.random.IntN(300))
			}
		}, 0},
		{"audit", "what is older than 7 days is deleted every night", 20000, 7, func(d *day) {
			d.dof(habitRows, "audit", d.minute, d.number(500))
			if d.at(3, 0) {
				d.dof("DELETE FROM audit WHERE made < %d", d.minute-7*1440)
			}
		}, 1},
		{"logins", "what is older than 90 days is deleted every night", 50000, 90, func(d *day) {
			d.dof(habitRows, "logins", d.minute, d.number(100))
			if d.at(3, 30) {
				d.dof("DELETE FROM logins WHERE made < %d", d.minute-90*1440)
			}
		}, 0},
		{"prices", "imported anew every night: old rows deleted, new ones inserted, in two looks", 2000, 1, func(d *day) {
			if d.at(4, 0) {
				d.dof(habitRows, "prices", d.minute, 2000)
			}
			if d.at(4, 5) {
				d.dof("DELETE FROM prices WHERE made < %d", d.minute-5)
			}
		}, 2},
		{"invoices", "a batch of a tenth once a week", 20000, 365, func(d *day) {
			d.dof(habitRows, "invoices", d.minute, d.number(20))
			if d.minute%(7*1440) == 5*60 {
				d.dof(habitRows, "invoices", d.minute, 2000)
			}
		}, 0},
		{"imports", "large imports that are rolled back", 20000, 100, func(d *day) {
			if d.at(11, 0) || d.at(16, 0) {
				d.dof("BEGIN; "+habitRows+"; ROLLBACK", "imports", d.minute, 30000)
			}
		}, 0},
		{"swapped", "a new copy is built and renamed every night", 4000, 1, func(d *day) {
			if d.at(1, 0) {
				d.dof("BEGIN; CREATE TABLE swapping (LIKE swapped INCLUDING ALL); "+habitRows+"; DROP TABLE swapped; ALTER TABLE swapping RENAME TO swapped; COMMIT", "swapping", d.minute, 4000)
			}
		}, 0},
		{"events", "a partition a day, the oldest is dropped", 0, 0, func(d *day) {
			today := d.minute / 1440
			if d.at(0, 0) {
				d.dof("CREATE TABLE IF NOT EXISTS events_%[1]d PARTITION OF events FOR VALUES FROM (%[2]d) TO (%[3]d); DROP TABLE IF EXISTS \"events_%[4]d\"", today, today*1440, (today+1)*1440, today-3)
			}
			d.dof(habitRows, "events", d.minute, d.number(3000))
		}, 0},
		{"maintained", "VACUUM FULL, CLUSTER or ANALYZE every night", 20000, 100, func(d *day) {
			d.dof(habitRows, "maintained", d.minute, d.number(50))
			d.dof("UPDATE maintained SET made = %d WHERE id %% 20 = %d", d.minute, d.minute/5%20)
			if d.at(1, 30) {
				d.sql = append(d.sql, []string{"VACUUM FULL maintained", "CLUSTER maintained USING maintained_pkey", "ANALYZE maintained"}[d.minute/1440%3])
			}
		}, 0},
	}
}

// accident is what somebody does by mistake to a table that never saw the like.
type accident struct {
	table string
	what  string
	sql   string
}

func accidents() []accident {
	return []accident{
		{"postings", "a month of a year is deleted", "DELETE FROM postings WHERE id % 12 = 3"},
		{"postings", "3 of 100 rows are deleted", "DELETE FROM postings WHERE id % 33 = 3"},
		{"postings", "half of the rows are deleted", "DELETE FROM postings WHERE id % 2 = 1"},
		{"accounts", "a table is truncated", "TRUNCATE accounts"},
		{"accounts", "an import runs twice", "INSERT INTO accounts SELECT nextval('ids'), made, note FROM accounts"},
		{"invoices", "an old year is deleted", "DELETE FROM invoices WHERE id % 10 = 1"},
		{"maintained", "a table is emptied", "DELETE FROM maintained"},
		{"sessions", "all rows are deleted", "DELETE FROM sessions"},
		{"tokens", "all rows are deleted", "DELETE FROM tokens"},
		{"logins", "a clean-up with a wrong unit deletes a third", "DELETE FROM logins WHERE id % 3 = 0"},
		{"imports", "nine of ten rows are deleted", "DELETE FROM imports WHERE id % 10 > 0"},
	}
}

// TestRowsOfDays lets the check rows watch tables with the habits of real ones
// for PGTEST_ROWS_DAYS days (2; what docs/benchmarks/logic.md tells is of 28),
// with a look for every five minutes of it: what happens in them is done at once
// on a real server, with autovacuum, crashes and lost statistics. A table may be
// told of only as its habit says. Then there are accidents, each of which must
// be told of at the next look.
func TestRowsOfDays(t *testing.T) {
	t.Parallel()
	days := 2
	if text := os.Getenv("PGTEST_ROWS_DAYS"); text != "" {
		var err error
		if days, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	major := pgtest.Newest()
	if major < 15 {
		t.Skip("pg_stat_force_next_flush came with 15")
	}
	server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("autovacuum_naptime", "1s"), pgtest.Setting("max_wal_size", "4GB"))
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	server.MustExec(t, "erp", "CREATE SEQUENCE ids")
	list := habits()
	for _, h := range list {
		switch h.table {
		case "events":
			server.MustExec(t, "erp", "CREATE TABLE events (id bigint, made int, note text) PARTITION BY RANGE (made)")
		default:
			server.MustExec(t, "erp", fmt.Sprintf("CREATE TABLE %s (id bigint PRIMARY KEY, made int, note text)", h.table))
			server.MustExec(t, "erp", fmt.Sprintf("INSERT INTO %s SELECT nextval('ids'), -g::bigint * %d / %[3]d, 'x' FROM generate_series(1, %[3]d) g", h.table, h.since*1440, h.rows))
		}
	}
	memory := state.OpenFiles(t.TempDir(), "x").Memory()
	d := &day{random: rand.New(rand.NewPCG(1, 2))}
	var conn *pgx.Conn
	run := func(statements ...string) {
		t.Helper()
		if conn == nil {
			var err error
			if conn, err = pgx.Connect(t.Context(), server.DSN("erp")); err != nil {
				t.Fatal(err)
			}
		}
		for _, sql := range append(statements, "SELECT pg_stat_force_next_flush()") {
			if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
				t.Fatal(sql, err)
			}
		}
	}
	closed := func() {
		if conn != nil {
			_ = conn.Close(t.Context())
			conn = nil
		}
	}
	defer closed()
	one := target(t, server.DSN("erp"))
	open := make(map[string]bool)
	look := func() (began []string) {
		t.Helper()
		result := check.Run(t.Context(), one, "erp", named(t, "rows")[0], check.Scope{Memory: memory}, discard)
		if result.Outcome == check.OutcomeFailed {
			t.Fatalf("%+v", result)
		}
		now := make(map[string]bool)
		for _, f := range result.Findings {
			now[f.Relation] = true
			if !open[f.Relation] {
				began = append(began, f.Relation)
			}
		}
		open = now
		pass(t, memory, lookEvery)
		return began
	}
	live := func() {
		d.sql = nil
		for _, h := range list {
			h.at(d)
		}
		run(d.sql...)
		d.minute += 5
	}

	told := make(map[string]int)
	for d.minute < days*1440+720 { // accidents happen by day
		live()
		if d.random.IntN(500) == 0 {
			closed()
			if err := server.Stop(pgtest.Immediate); err != nil { // as a crash does, it loses the statistics
				t.Fatal(err)
			}
			if err := server.StartAgain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, table := range look() {
			told[table]++
			t.Logf("day %d, %02d:%02d: %s", d.minute/1440, d.minute/60%24, d.minute%60, table)
		}
	}
	t.Logf("%d days, %d looks, %d tables; told: %v", days, days*288, len(list), told)
	for _, h := range list {
		if told[h.table] > h.told {
			t.Errorf("%s (%s) was told of %d times, and may be %d times", h.table, h.what, told[h.table], h.told)
		}
		delete(told, h.table)
	}
	if len(told) > 0 {
		t.Errorf("told of partitions: %v", slices.Sorted(maps.Keys(told)))
	}

	changeHistory(t, memory, func(h histories) {
		for _, table := range h {
			table["since"] = time.Now().Add(-28 * 24 * time.Hour) // what was not seen in these days is not usual
		}
	})
	found := 0
	for _, a := range accidents() {
		live()
		if began := look(); slices.Contains(began, a.table) {
			t.Errorf("%s was told of before its accident", a.table)
		}
		var habitual histories
		changeHistory(t, memory, func(h histories) { habitual = h })
		run("DROP TABLE IF EXISTS kept", "CREATE TABLE kept AS TABLE "+a.table, a.sql)
		if began := look(); slices.Contains(began, a.table) {
			found++
		} else {
			t.Errorf("%s: %s: not told of at the next look", a.table, a.what)
		}
		run("TRUNCATE "+a.table, "INSERT INTO "+a.table+" TABLE kept")
		for range 3 {
			look()
		}
		if open[a.table] {
			t.Errorf("%s: %s: still told of when the rows are back", a.table, a.what)
		}
		changeHistory(t, memory, func(h histories) { maps.Copy(h, habitual) }) // the accident is no habit
	}
	t.Logf("%d of %d accidents found at the next look", found, len(accidents()))
}

// pass lets time pass for what the check remembers.
func pass(t *testing.T, memory check.Memory, duration time.Duration) {
	t.Helper()
	earlier := func(values map[string]any, key string) {
		if text, ok := values[key].(string); ok {
			moment, err := time.Parse(time.RFC3339Nano, text)
			if err != nil {
				t.Fatal(err)
			}
			values[key] = moment.Add(-duration)
		}
	}
	changeHistory(t, memory, func(h histories) {
		for _, table := range h {
			earlier(table, "since")
			earlier(table, "seen")
			if open, ok := table["open"].(map[string]any); ok {
				earlier(open, "time")
			}
		}
	})
}

// histories is what the check rows remembers, by the tables' OIDs.
type histories map[string]map[string]any

// changeHistory changes what the check rows remembers of the database erp.
func changeHistory(t *testing.T, memory check.Memory, change func(h histories)) {
	t.Helper()
	var kept struct {
		SystemIdentifier int64     `json:"system_identifier"`
		Value            histories `json:"value"`
	}
	if found, err := memory.Recall("rows/erp/history", &kept); !found || err != nil {
		t.Fatal(found, err)
	}
	change(kept.Value)
	if err := memory.Remember("rows/erp/history", kept); err != nil {
		t.Fatal(err)
	}
}
