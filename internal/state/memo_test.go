package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pg_integrity_exporter/internal/state"
)

// TestMemo holds that a memo is never behind, and reads nothing when nothing has
// changed for a while.
func TestMemo(t *testing.T) {
	t.Parallel()
	eachFiles(t, func(t *testing.T, files *state.Files) {
		reads := 0
		memo := state.NewMemo(files, "facts", func() (names []string, err error) {
			reads++
			return files.List("facts")
		})
		want := func(n int) {
			t.Helper()
			if names, err := memo.Get(); err != nil || len(names) != n {
				t.Fatalf("%q, %v, want %d names", names, err, n)
			}
		}
		want(0)
		for i, name := range []string{"a", "b", "c"} { // within one tick of the file system's clock
			if err := files.Put("facts", name, i); err != nil {
				t.Fatal(err)
			}
			want(i + 1)
		}
		if err := files.Delete("facts", "a"); err != nil {
			t.Fatal(err)
		}
		want(2)
		if files.Directory() == "" {
			return
		}
		past := time.Now().Add(-time.Minute)
		if err := os.Chtimes(filepath.Join(files.Directory(), "facts"), past, past); err != nil {
			t.Fatal(err)
		}
		want(2)
		reads = 0
		want(2)
		if reads != 0 {
			t.Errorf("read %d times although nothing has changed", reads)
		}
		if err := files.Put("facts", "d", 4); err != nil {
			t.Fatal(err)
		}
		want(3)
	})
}

// TestMemoError holds that an error is not kept.
func TestMemoError(t *testing.T) {
	t.Parallel()
	fails := true
	memo := state.NewMemo(state.OpenFiles(t.TempDir(), "t"), "facts", func() (int, error) {
		if fails {
			return 0, errors.New("unreadable")
		}
		return 7, nil
	})
	if _, err := memo.Get(); err == nil {
		t.Error("no error")
	}
	fails = false
	if n, err := memo.Get(); n != 7 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
