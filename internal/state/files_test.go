package state_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pg_integrity_exporter/internal/state"
)

// eachFiles runs a test on files on disk and in memory.
func eachFiles(t *testing.T, test func(t *testing.T, files *state.Files)) {
	t.Helper()
	t.Run("disk", func(t *testing.T) { test(t, state.OpenFiles(t.TempDir(), "db.example:5432")) })
	t.Run("memory", func(t *testing.T) { test(t, state.OpenFiles("", "db.example:5432")) })
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	eachFiles(t, func(t *testing.T, files *state.Files) {
		names := []string{"../x", "a/b", "ledger.postings", strings.Repeat("ü", 63)}
		for i, name := range names {
			if found, err := files.Get("facts", name, new(int)); found || err != nil {
				t.Fatalf("%q before it was written: %v, %v", name, found, err)
			}
			if err := files.Put("facts", name, i); err != nil {
				t.Fatal(err)
			}
		}
		for i, name := range names {
			var got int
			if found, err := files.Get("facts", name, &got); !found || err != nil || got != i {
				t.Errorf("%q: %d, %v, %v", name, got, found, err)
			}
		}
		listed, err := files.List("facts")
		if err != nil || len(listed) != len(names) || listed[0] != "../x" {
			t.Errorf("listed %q, %v", listed, err)
		}
		if err := files.Delete("facts", "a/b"); err != nil {
			t.Fatal(err)
		}
		if err := files.Delete("facts", "a/b"); err != nil {
			t.Errorf("removed twice: %v", err)
		}
		if found, err := files.Get("facts", "a/b", new(int)); found || err != nil {
			t.Errorf("after removal: %v, %v", found, err)
		}
	})
}

func TestDamagedDocument(t *testing.T) {
	t.Parallel()
	files := state.OpenFiles(t.TempDir(), "t")
	if err := files.Put("facts", "x", 1); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(files.Directory(), "facts", "x.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := files.Get("facts", "x", new(int)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the file: %v", err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	eachFiles(t, func(t *testing.T, files *state.Files) {
		march := time.Date(2023, 3, 15, 9, 0, 0, 0, time.UTC)
		for _, e := range []state.Event{
			{Time: march, Ended: march.Add(time.Hour), Kind: state.EventMaintenance, Message: "VACUUM FULL"},
			{Time: march.Add(-time.Hour), Kind: state.EventWindowOpened, Message: "opened"},
			{Time: march.AddDate(0, 1, 0), Kind: state.EventDrill, Message: "drill"},
		} {
			if err := files.Record(e); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			from, to time.Time
			want     string
		}{
			{march.AddDate(-1, 0, 0), march.AddDate(1, 0, 0), "opened VACUUM FULL drill"},
			{march.Add(30 * time.Minute), march.AddDate(0, 0, 1), "VACUUM FULL"},
			{march.Add(2 * time.Hour), march.AddDate(0, 1, 0), ""},
		} {
			events, err := files.Events(c.from, c.to)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range events {
				got = append(got, e.Message)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("from %s to %s: %q, want %q", c.from, c.to, got, c.want)
			}
		}
	})
}

// TestEventsOfMany records from several processes' worth of writers at once,
// over a line that a kill cut off.
func TestEventsOfMany(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	now := time.Now()
	first := state.OpenFiles(path, "t")
	if err := first.Record(state.Event{Time: now, Kind: state.EventGuard, Message: "first"}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(first.Directory(), "events", now.UTC().Format("2006-01")+".jsonl")
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"time":"2023-`)
	f.Close()

	const writers, each = 8, 50
	var running sync.WaitGroup
	for range writers {
		files := state.OpenFiles(path, "t")
		running.Go(func() {
			for range each {
				if err := files.Record(state.Event{Time: now, Kind: state.EventGuard, Message: "more"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	events, err := first.Events(now.Add(-time.Minute), now.Add(time.Minute))
	if err != nil || len(events) != 1+writers*each {
		t.Errorf("%d events, %v", len(events), err)
	}
}
