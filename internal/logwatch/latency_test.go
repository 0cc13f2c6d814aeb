package logwatch_test

import (
	"context"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pgtest"
)

// TestLatency measures how long it takes from an error to its metric, for every
// way to read a log: a second at most, but for one moment in ten in which the
// machine is busy with something else.
func TestLatency(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for quiet moments")
	}
	const prefix = "%m [%p] %e %d %a "
	server := pgtest.Start(t, pgtest.CSVLog(), pgtest.Setting("log_destination", "stderr,csvlog,jsonlog"), pgtest.Setting("log_line_prefix", prefix))
	role, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.GrantLog(t.Context(), "postgres", role); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	divide := func() {
		if _, err := conn.Exec(t.Context(), "SELECT 1/0"); err == nil {
			t.Fatal("no error")
		}
	}
	socket := filepath.Join(t.TempDir(), "log.sock")
	send := func(line string) func() {
		return func() {
			to, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			if _, err := to.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
			<-time.After(1500 * time.Millisecond) // it stays open
		}
	}
	via := func(via, format, pattern string) func(c *config.Log) {
		return func(c *config.Log) { c.Via, c.Format, c.Path = via, format, pattern }
	}
	directory := server.LogDirectory()
	for _, source := range []struct {
		name   string
		change func(c *config.Log)
		fail   func()
	}{
		{"file jsonlog", via(config.ViaFile, "jsonlog", filepath.Join(directory, "*.json")), divide},
		{"file csvlog", via(config.ViaFile, "csvlog", filepath.Join(directory, "*.csv")), divide},
		{"file stderr", via(config.ViaFile, "stderr", filepath.Join(directory, "*.log")), divide},
		{"sql jsonlog", via(config.ViaSQL, "jsonlog", "*.json"), divide},
		{"sql csvlog", via(config.ViaSQL, "csvlog", "*.csv"), divide},
		{"sql stderr", via(config.ViaSQL, "stderr", "*.log"), divide},
		{"socket", func(c *config.Log) { c.Via, c.Listen = config.ViaStream, []string{"unix://" + socket} }, send("2026-11-25 09:00:00.123 UTC [1] 22012 a b ERROR:  division by zero\n")},
	} {
		results := inMemory(t)
		stop := watch(t, server.DSN("postgres", role), results, func(c *config.Log) {
			c.LinePrefix = prefix
			source.change(c)
		})
		pgtest.Await(t, "reading", 20*time.Second, func() bool { return results.Snapshot().Log.Up })
		<-time.After(2 * time.Second)
		var took []time.Duration
		for range 10 {
			<-time.After(time.Duration(rand.IntN(1000)) * time.Millisecond)
			before, began := divisions(results), time.Now()
			done := make(chan struct{})
			go func() {
				defer close(done)
				source.fail()
			}()
			for divisions(results) == before && time.Since(began) < 20*time.Second {
				<-time.After(2 * time.Millisecond)
			}
			took = append(took, time.Since(began))
			<-done
		}
		stop()
		slices.Sort(took)
		t.Logf("%-12s median %v, 90 %% within %v, at most %v", source.name, took[len(took)/2].Round(time.Millisecond), took[len(took)*9/10].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
		if took[len(took)*9/10-1] > time.Second {
			t.Errorf("%s: more than a second", source.name)
		}
	}
}
