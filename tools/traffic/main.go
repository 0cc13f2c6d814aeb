// Traffic records how transactions and errors of a real PostgreSQL server come
// and go over a day, for tools/spikes.sh. A second of the recording stands for a
// minute: a day takes 24 minutes.
//
//	go run ./tools/traffic --incidents=false >tools/prometheus/spikes/recorded/NAME.csv
//
// The load is what a bookkeeping does: postings to busy accounts, reading of the
// archive, imports with duplicates, a batch at night that collides with itself, a
// deployment by day that breaks statements for a minute, clients that go mad for
// some minutes. With --incidents the archive fails six times for half an hour:
// its pages are damaged, it is locked, or a column of it is gone. What is counted
// is what the exporter shows.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

const (
	// minute is how long a minute takes, day how many minutes a day has.
	minute = time.Second
	day    = 24 * 60
	// workers are the sessions of the application.
	workers = 12
	// archived is how many rows the archive has: 128 pages.
	archived = 128 * 50
)

// The hours at which incidents begin, in minutes of the day, and how long each
// lasts. The spikes tool knows them too.
var incidents = []int{3 * 60, 7 * 60, 11*60 + 30, 15 * 60, 18*60 + 30, 22 * 60}

const incidentLength = 30

const schema = `
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO account SELECT i, 0 FROM generate_series(1, 2000) i;
CREATE TABLE posting (id bigserial PRIMARY KEY, account int REFERENCES account, amount bigint, at timestamptz DEFAULT now());
CREATE TABLE import (reference int PRIMARY KEY);
CREATE TABLE archive (id int PRIMARY KEY, note text NOT NULL);
INSERT INTO archive SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 6400) i;
VACUUM (FREEZE, ANALYZE) archive;
`

func main() {
	app := kingpin.New("traffic", "Records a day of traffic.")
	withIncidents := app.Flag("incidents", "Let the archive fail six times.").Bool()
	seed := app.Flag("seed", "What day it is: another one has other noise.").Default("1").Uint64()
	minutes := app.Flag("minutes", "How much of the day to record.").Default(strconv.Itoa(day)).Int()
	kingpin.MustParse(app.Parse(os.Args[1:]))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := record(ctx, *seed, *minutes, *withIncidents)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}

func record(ctx context.Context, seed uint64, minutes int, withIncidents bool) (err error) {
	server, err := pgtest.Launch(ctx, pgtest.Config{Settings: map[string]string{
		"logging_collector": "on", "log_destination": "jsonlog", "log_directory": "log", "log_filename": "server.log", "log_rotation_size": "0",
		"shared_buffers": "1MB", "log_min_error_statement": "panic", "log_error_verbosity": "terse", "autovacuum": "off", "max_connections": "40",
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := server.Exec(ctx, "postgres", "CREATE DATABASE erp"); err != nil {
		return err
	}
	for statement := range strings.SplitSeq(strings.TrimSpace(schema), ";\n") {
		if err := server.Exec(ctx, "erp", statement); err != nil {
			return err
		}
	}
	watched, err := watch(server)
	if err != nil {
		return err
	}
	defer watched.Stop()
	d := &theDay{server: server, random: rand.New(rand.NewPCG(seed, 1)), due: make(chan kind, 10000)}
	ctx, stop := context.WithCancel(ctx)
	var working sync.WaitGroup
	for n := range workers {
		working.Go(func() { d.work(ctx, rand.New(rand.NewPCG(seed, uint64(n)+2))) })
	}
	defer working.Wait()
	defer stop()
	return d.run(ctx, watched, minutes, withIncidents)
}

// watch is the exporter of the server, without checks, which are transactions too.
func watch(server *pgtest.Server) (*exporter.Exporter, error) {
	var config strings.Builder
	config.WriteString("maintenance: {enabled: false}\nchecks:\n")
	for _, c := range check.All() {
		config.WriteString("  " + c.Name + ": {enabled: false}\n")
	}
	file := filepath.Join(server.Directory, "exporter.yml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return nil, err
	}
	logger := slog.New(slog.DiscardHandler)
	return exporter.New(exporter.Options{
		DSN: server.DSN("postgres"), ConfigFile: file, Store: state.InMemory(logger), Logger: logger,
		Environment: func(string) (string, bool) { return "", false },
	})
}

// kind is what a transaction does.
type kind int

const (
	post kind = iota
	read
	load
	batch
	mad
)

// theDay is a day of the application.
type theDay struct {
	server *pgtest.Server
	random *rand.Rand
	due    chan kind
	noise  float64
	madFor int
}

// run lives through the day and writes a line for each minute.
func (d *theDay) run(ctx context.Context, watched *exporter.Exporter, minutes int, withIncidents bool) error {
	fmt.Println("commits,rollbacks,server_faults")
	ticker := time.NewTicker(minute)
	defer ticker.Stop()
	var before [3]float64
	deploy := 10*60 - 20 + d.random.IntN(40)
	for now := range minutes + 1 {
		counted, err := counters(ctx, watched)
		if err != nil {
			return err
		}
		if now > 0 {
			fmt.Printf("%.0f,%.0f,%.0f\n", counted[0]-before[0], counted[1]-before[1], counted[2]-before[2])
		}
		before = counted
		if now == deploy {
			go d.deploy(ctx)
		}
		if i := slices.Index(incidents, now); withIncidents && i >= 0 {
			go d.incident(ctx, i)
		}
		d.plan(now)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// plan says what is to be done within this minute: little at night, much by day,
// less at noon, and never the same.
func (d *theDay) plan(now int) {
	hour := float64(now) / 60
	usual := 110 - 95*math.Cos(2*math.Pi*(hour-3)/24)
	if hour > 12 && hour < 13 {
		usual *= 0.6
	}
	d.noise = 0.9*d.noise + 0.1*d.random.NormFloat64()
	n := int(math.Round(usual * math.Exp(d.noise+0.2*d.random.NormFloat64())))
	if d.madFor == 0 && d.random.Float64() < 4.0/day {
		d.madFor = 3 + d.random.IntN(6)
	}
	for range n {
		k := post
		switch x := d.random.Float64(); {
		case d.madFor > 0 && x < 0.15:
			k = mad
		case x < 0.35:
			k = read
		case x < 0.4:
			k = load
		}
		d.push(k)
	}
	d.madFor = max(0, d.madFor-1)
	if now >= 2*60 && now < 2*60+30 {
		for range 20 {
			d.push(batch)
		}
	}
}

// push queues a transaction; when all workers hang it is never done.
func (d *theDay) push(k kind) {
	select {
	case d.due <- k:
	default:
	}
}

// work is one session of the application.
func (d *theDay) work(ctx context.Context, random *rand.Rand) {
	var conn *pgx.Conn
	for {
		select {
		case <-ctx.Done():
			if conn != nil {
				_ = conn.Close(context.WithoutCancel(ctx)) // the server is stopped next
			}
			return
		case k := <-d.due:
			if conn == nil || conn.IsClosed() {
				var err error
				if conn, err = pgx.Connect(ctx, d.server.DSN("erp")+"&statement_timeout=500&default_query_exec_mode=simple_protocol"); err != nil {
					conn = nil
					continue
				}
			}
			// What fails is counted by the server.
			_, _ = conn.Exec(ctx, statements(k, random))
			if conn.PgConn().TxStatus() == 'E' {
				_, _ = conn.Exec(ctx, "ROLLBACK")
			}
		}
	}
}

// statements are one transaction. Its session is to tell at once what it did: the
// minutes are shorter than those at which it tells otherwise.
func statements(k kind, random *rand.Rand) string {
	const flush = "SELECT pg_stat_force_next_flush(); "
	begin, accounts, wait := "BEGIN; ", 2000, "0"
	switch k {
	case read:
		return flush + fmt.Sprintf("SELECT note FROM archive WHERE id = %d", 1+random.IntN(archived))
	case load:
		reference := random.IntN(1_000_000_000)
		if random.IntN(10) == 0 {
			reference = 0 // it came twice
		}
		return flush + fmt.Sprintf("INSERT INTO import VALUES (%d)", reference)
	case mad:
		return flush + "SELECT 1 / (id - id) FROM account LIMIT 1"
	case batch:
		begin, accounts, wait = "BEGIN ISOLATION LEVEL SERIALIZABLE; ", 20, "0.02"
	case post:
	}
	from, to := 1+random.IntN(accounts), 1+random.IntN(accounts)
	return begin + flush + fmt.Sprintf(`UPDATE account SET balance = balance - 1 WHERE id = %d; INSERT INTO posting (account, amount) SELECT %[1]d, -1 FROM pg_sleep(%[3]s);
		UPDATE account SET balance = balance + 1 WHERE id = %[2]d; INSERT INTO posting (account, amount) VALUES (%[2]d, 1); COMMIT`, from, to, wait)
}

// deploy is a release: sessions are ended, and for a minute and a half the
// statements do not match the schema.
func (d *theDay) deploy(ctx context.Context) {
	for _, sql := range []string{
		"ALTER TABLE posting RENAME amount TO value",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'erp' AND pid <> pg_backend_pid() AND application_name = ''",
	} {
		d.must(d.server.Exec(ctx, "erp", sql))
	}
	pause(ctx, minute+minute/2)
	d.must(d.server.Exec(ctx, "erp", "ALTER TABLE posting RENAME value TO amount"))
}

// incident makes reading of the archive fail.
func (d *theDay) incident(ctx context.Context, n int) {
	switch n % 3 {
	case 0:
		relation, err := d.server.Relation(ctx, "erp", "archive")
		if err != nil {
			d.must(err)
			return
		}
		whole, err := os.ReadFile(relation.Path)
		d.must(err)
		for block := range relation.Blocks {
			d.must(relation.Edit(block, pgtest.Garbage))
			d.must(relation.Edit(block, func(p []byte) { p[page.Size/4] ^= 0xff; copy(p[:24], bytes.Repeat([]byte{0xee}, 24)) }))
		}
		pause(ctx, incidentLength*minute)
		d.must(os.WriteFile(relation.Path, whole, 0o600))
	case 1:
		d.must(d.server.Exec(ctx, "erp", fmt.Sprintf("BEGIN; LOCK archive; SELECT pg_sleep(%g); COMMIT", (incidentLength*minute).Seconds())))
	case 2:
		d.must(d.server.Exec(ctx, "erp", "ALTER TABLE archive RENAME note TO remark"))
		pause(ctx, incidentLength*minute)
		d.must(d.server.Exec(ctx, "erp", "ALTER TABLE archive RENAME remark TO note"))
	}
}

func (d *theDay) must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// faultStates are the SQLSTATEs that the alerts hold to be the server's fault.
var faultStates = []string{"08", "40", "53", "54", "57014", "57P02", "57xxx", "58", "XX"}

// counters are commits, rollbacks and faults of the server in the database.
func counters(ctx context.Context, e *exporter.Exporter) (sums [3]float64, err error) {
	for line := range strings.Lines(string(e.Scrape(ctx).Text())) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		name, labels, _ := strings.Cut(series, "{")
		if !strings.Contains(labels, `datname="erp"`) {
			continue
		}
		i := -1
		switch {
		case name == "pgintegrity_transactions_total" && strings.Contains(labels, `outcome="commit"`):
			i = 0
		case name == "pgintegrity_transactions_total":
			i = 1
		case name == "pgintegrity_errors_total" && slices.ContainsFunc(faultStates, func(s string) bool { return strings.Contains(labels, `sqlstate="`+s) }):
			i = 2
		}
		if i < 0 {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return sums, fmt.Errorf("%s: %w", line, err)
		}
		sums[i] += n
	}
	return sums, nil
}
