// Benchpeers measures the exporter beside others on real servers and writes a
// table in Markdown. The programs of others are given by path; nothing of theirs
// is in this repository.
//
//	make bench-peers PEERS='postgres_exporter=/opt/postgres_exporter --web.listen-address={address}'
//
// A peer is NAME=COMMAND; several are separated by line breaks. In the command
// {address} is where it must listen and {dsn} is the server; every peer also has
// DATA_SOURCE_NAME in its environment. It is scraped at /metrics.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/internal/pgtest"
)

// peer is a program to measure.
type peer struct {
	name    string
	command []string
}

// parsePeers reads NAME=COMMAND lines.
func parsePeers(text string) ([]peer, error) {
	var peers []peer
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, command, ok := strings.Cut(line, "=")
		fields := strings.Fields(command)
		if !ok || len(fields) == 0 {
			return nil, fmt.Errorf("%q is not NAME=COMMAND", line)
		}
		if _, err := exec.LookPath(fields[0]); err != nil {
			return nil, fmt.Errorf("peer %s: %w", name, err)
		}
		peers = append(peers, peer{name, fields})
	}
	return peers, nil
}

// scenario is a server to measure on.
type scenario struct {
	name, title string
	prepare     func(ctx context.Context, server *pgtest.Server) error
}

func scenarios() []scenario {
	return []scenario{
		{"a", "one database", func(ctx context.Context, s *pgtest.Server) error { return database(ctx, s, "bench", 20) }},
		{"b", "51 databases of 20 tables", func(ctx context.Context, s *pgtest.Server) error {
			for n := range 51 {
				if err := database(ctx, s, fmt.Sprintf("bench%d", n), 20); err != nil {
					return err
				}
			}
			return nil
		}},
		{"c", "one database of 10,000 tables", func(ctx context.Context, s *pgtest.Server) error { return database(ctx, s, "bench", 10000) }},
	}
}

// tablesPerTransaction keeps a transaction within max_locks_per_transaction.
const tablesPerTransaction = 500

// database makes a database with tables that have a key and some rows.
func database(ctx context.Context, s *pgtest.Server, name string, tables int) error {
	if err := s.Exec(ctx, "postgres", "CREATE DATABASE "+name); err != nil {
		return err
	}
	for from := 0; from < tables; from += tablesPerTransaction {
		to := min(from+tablesPerTransaction, tables) - 1
		err := s.Exec(ctx, name, fmt.Sprintf(`DO $$ BEGIN FOR i IN %d..%d LOOP
			EXECUTE format('CREATE TABLE t%%s (id int PRIMARY KEY, note text)', i);
			EXECUTE format('INSERT INTO t%%s SELECT n, md5(n::text) FROM generate_series(1, 10) n', i);
		END LOOP; END $$`, from, to))
		if err != nil {
			return err
		}
	}
	return nil
}

func main() {
	app := kingpin.New("benchpeers", "Measures the exporter beside others.")
	exporter := app.Flag("exporter", "The exporter to measure.").Default("bin/pg_integrity_exporter").ExistingFile()
	peers := app.Flag("peers", "Other programs, as NAME=COMMAND lines.").Envar("PEERS").String()
	only := app.Flag("scenario", "Measure only these scenarios (a, b, c, d).").Default("a", "b", "c", "d").Enums("a", "b", "c", "d")
	targets := app.Flag("targets", "How many targets scenario d has.").Default(strconv.Itoa(fleetTargets)).Int()
	quiet := app.Flag("quiet", "A command that waits until nothing else runs on the machine; it is run before each measurement.").String()
	major := app.Flag("postgres", "Major version of the server.").Default("15").Int()
	kingpin.MustParse(app.Parse(os.Args[1:]))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	b := bench{exporter: *exporter, major: *major, targets: *targets, quiet: *quiet, out: os.Stdout}
	err := b.run(ctx, *peers, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchpeers:", err)
		os.Exit(1)
	}
}

// bench is one run of the program.
type bench struct {
	exporter string
	major    int
	targets  int
	quiet    string
	out      *os.File
}

func (b *bench) run(ctx context.Context, text string, only []string) error {
	peers, err := parsePeers(text)
	if err != nil {
		return err
	}
	program, err := filepath.Abs(b.exporter)
	if err != nil {
		return fmt.Errorf("looking for the exporter: %w", err)
	}
	self := peer{"pg_integrity_exporter", []string{
		program, "--log.level=warn", "--state.path={scratch}", "serve", "--web.listen-address={address}",
	}}
	peers = append([]peer{self}, peers...)
	install, err := pgtest.Find(b.major)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, introduction, time.Now().UTC().Format(time.DateOnly), install.Version, runtime.NumCPU())
	for _, s := range scenarios() {
		if !slices.Contains(only, s.name) {
			continue
		}
		if err := b.measureScenario(ctx, install, s, peers); err != nil {
			return fmt.Errorf("scenario %s: %w", s.name, err)
		}
	}
	if slices.Contains(only, "d") {
		if err := b.measureFleets(ctx, install, self); err != nil {
			return fmt.Errorf("scenario d: %w", err)
		}
	}
	return nil
}

// measureScenario measures every peer on a server of its own, so that none finds
// warm what another left.
func (b *bench) measureScenario(ctx context.Context, install pgtest.Install, s scenario, peers []peer) error {
	fmt.Fprintf(b.out, "\n## (%s) %s\n\n%s", s.name, s.title, tableHead)
	for _, p := range peers {
		m, err := b.measurePeer(ctx, install, s, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprint(b.out, m.row(p.name))
	}
	return nil
}

func (b *bench) measurePeer(ctx context.Context, install pgtest.Install, s scenario, p peer) (_ measured, err error) {
	server, err := pgtest.Launch(ctx, pgtest.Config{Install: install, Settings: map[string]string{
		"logging_collector": "on", "log_destination": "jsonlog", "log_directory": "log", "log_filename": "server.log", "log_rotation_size": "0",
		"log_connections": "on", "shared_buffers": "128MB", "max_connections": "100", "max_locks_per_transaction": "256",
	}})
	if err != nil {
		return measured{}, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := s.prepare(ctx, server); err != nil {
		return measured{}, err
	}
	role, err := server.Monitor(ctx)
	if err != nil {
		return measured{}, err
	}
	if err := server.Exec(ctx, "postgres", "CHECKPOINT"); err != nil {
		return measured{}, err
	}
	program, err := launch(ctx, p, server.DSN("postgres", role))
	if err != nil {
		return measured{}, err
	}
	defer func() { err = errors.Join(err, program.stop()) }()
	for range 5 {
		if err := program.get(ctx, program.url, scraped); err != nil {
			return measured{}, err
		}
	}
	settle(ctx, program, server)
	if err := b.awaitQuiet(ctx); err != nil {
		return measured{}, err
	}
	return measure(ctx, program, server, role)
}

// awaitQuiet waits until nothing else runs on the machine, as far as somebody said
// how that is known.
func (b *bench) awaitQuiet(ctx context.Context) error {
	fields := strings.Fields(b.quiet)
	if len(fields) == 0 {
		return nil
	}
	if err := exec.CommandContext(ctx, fields[0], fields[1:]...).Run(); err != nil {
		return fmt.Errorf("waiting for a quiet machine: %w", err)
	}
	return nil
}

// settleTime is how long a program has at most to come to rest: the first round of
// all checks of 51 databases takes minutes.
const settleTime = 15 * time.Minute
