package state_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/state"
)

// written makes the database that a program of an earlier commit wrote; testdata
// has what was in it, as the program of that commit itself wrote it.
func written(t *testing.T, commit string) (directory string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", commit+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var buckets map[string]map[string]json.RawMessage
	if err := json.Unmarshal(content, &buckets); err != nil {
		t.Fatal(err)
	}
	directory = t.TempDir()
	db, err := bolt.Open(filepath.Join(directory, "state.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for name, values := range buckets {
			bucket, err := tx.CreateBucket([]byte(name))
			if err != nil {
				return err
			}
			for key, value := range values {
				if key == "log_counters" {
					err = putCounters(bucket, value)
				} else {
					var compact bytes.Buffer
					err = errors.Join(json.Compact(&compact, value), bucket.Put([]byte(key), compact.Bytes()))
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return directory
}

func putCounters(bucket *bolt.Bucket, value json.RawMessage) error {
	var counts map[string]uint64
	if err := json.Unmarshal(value, &counts); err != nil {
		return err
	}
	counters, err := bucket.CreateBucket([]byte("log_counters"))
	for key, count := range counts {
		err = errors.Join(err, counters.Put([]byte(key), binary.BigEndian.AppendUint64(nil, count)))
	}
	return err
}

// TestUpgrade opens what earlier programs wrote: nothing of it is lost, and it is
// still there after today's program has written.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, commit := range []string{"202886c", "6d0fe9b"} {
		t.Run(commit, func(t *testing.T) {
			t.Parallel()
			directory := written(t, commit)
			for round := range 2 {
				store, target := open(t, directory)
				snapshot := target.Snapshot()
				position := pglog.Position{Path: "/log/a.json", Inode: 7, Offset: 42}
				if snapshot.Counters[division] != uint64(3+round) || target.LogPosition("/log/*.json") != position {
					t.Errorf("%d errors, position %+v", snapshot.Counters[division], target.LogPosition("/log/*.json"))
				}
				if len(snapshot.Findings) != 1 || snapshot.Findings[0].Fingerprint != "f1" || *snapshot.Findings[0].Block != 33 || snapshot.Findings[0].FirstSeen.IsZero() {
					t.Errorf("findings %+v", snapshot.Findings)
				}
				if len(snapshot.Checks) != 1 || snapshot.Checks[0].LastSuccess.IsZero() || snapshot.Checks[0].CheckedBytes != 4096 {
					t.Errorf("checks %+v", snapshot.Checks)
				}
				if snapshot.Runs[state.RunKey{Check: "heap", Outcome: check.OutcomeFindings}] != 1 || snapshot.MissedSlots["heap"] != 1 || len(snapshot.Databases) != 1 {
					t.Errorf("runs %v, missed %v, databases %v", snapshot.Runs, snapshot.MissedSlots, snapshot.Databases)
				}
				if got := target.Accumulate("checksum_failures", float64(2+round)); got != float64(7+round) {
					t.Errorf("the counter goes on at %v, not %d", got, 7+round)
				}
				target.CommitLog(pglog.Batch{Counts: map[pglog.Counter]uint64{division: 1}, Source: "/log/*.json", Position: position}, nil)
				closeStore(t, store)
			}
		})
	}
}

// TestNewer holds that the state of a newer program is refused, by name, and left
// as it is.
func TestNewer(t *testing.T) {
	t.Parallel()
	directory := written(t, "6d0fe9b")
	path := filepath.Join(directory, "state.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte("2")) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = state.Open(directory, slog.New(slog.DiscardHandler))
	var newer *state.NewerError
	if !errors.As(err, &newer) || newer.Format != "2" {
		t.Fatalf("error %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the file was changed (%v)", err)
	}
}

// TestRuinedState opens databases that were cut off anywhere or have garbage
// anywhere. Each is an error or is read; none ends the process, and what cannot
// be read is left as it is.
func TestRuinedState(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	whole, err := os.ReadFile(filepath.Join(written(t, "6d0fe9b"), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(name string, content []byte) {
		directory := t.TempDir()
		path := filepath.Join(directory, "state.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		store, err := state.Open(directory, slog.New(slog.DiscardHandler))
		if err == nil {
			var target *state.Target
			if target, err = store.Target("127.0.0.1:5432"); err == nil {
				target.Accumulate("checksum_failures", 3)
			}
			_ = store.Close()
		}
		if err == nil {
			return
		}
		refused++
		if after, readErr := os.ReadFile(path); readErr != nil || !bytes.Equal(after, content) {
			t.Errorf("%s: refused (%v), and the file was changed (%v)", name, err, readErr)
		}
	}
	for length := 1; length < len(whole); length += 512 {
		try("cut off", whole[:length])
	}
	for range 100 {
		content := bytes.Clone(whole)
		at := random.IntN(len(content))
		for i := at; i < min(len(content), at+1+random.IntN(2000)); i++ {
			content[i] = byte(random.Uint32())
		}
		try("garbage", content)
	}
	if refused < 20 {
		t.Errorf("only %d were refused: the damage does not reach what is read", refused)
	}
}
