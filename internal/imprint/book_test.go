package imprint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const system = 7123456789

// started is when the server was started last.
var started = time.Date(2026, 3, 15, 9, 0, 0, 0, time.UTC)

// write keeps files in a new book, each with an imprint for every page, and closes it.
func write(t *testing.T, path string, started time.Time, resume, finish bool, names ...string) {
	t.Helper()
	b, err := Open(path, system, started)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Begin(true, resume); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		f := NewFile(name, 1<<30, 10, time.Unix(1e9, 0))
		for block := range uint32(10) {
			f.Set(Page{Block: block, LSN: uint64(i*100+int(block)) * 8}, of(uint64(i*100+int(block))*8, block*7919))
		}
		if err := b.Keep(f); err != nil {
			t.Fatal(err)
		}
	}
	if finish {
		if err := b.Finish(); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
}

// known says which of the files a book knows.
func known(t *testing.T, path string, identifier uint64, names ...string) string {
	t.Helper()
	b, err := Open(path, identifier, started)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	text := ""
	for _, name := range names {
		f, err := b.Recall(name)
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			continue
		}
		text += name + " "
		if f.Name != name || f.Settled != 1<<30 || !f.Taken.Equal(time.Unix(1e9, 0)) || f.Blocks() != 10 || f.Newest.Block != 9 {
			t.Errorf("%+v", f)
		}
		for block := range uint32(10) {
			if want := of(f.Newest.LSN-uint64(9-block)*8, block*7919); f.At(block) != want {
				t.Errorf("%s block %d: %x instead of %x", name, block, f.At(block), want)
			}
		}
		if f.At(10) != 0 {
			t.Error("a page beyond the end has an imprint")
		}
	}
	return text
}

// TestBook writes a book in two processes of which the first was killed while it wrote,
// and reads it.
func TestBook(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "imprints", "5")
	write(t, path, started, false, true, "base/5/1", "base/5/2", "base/5/2.1")
	if got := known(t, path, system, "base/5/2.1", "base/5/1", "base/5/3"); got != "base/5/2.1 base/5/1 " {
		t.Errorf("known: %s", got)
	}
	if got := known(t, path, system+1, "base/5/1"); got != "" {
		t.Errorf("of another cluster: %s", got)
	}
	write(t, path, started, false, false, "base/5/3", "base/5/4")
	next := path + ".next"
	info, err := os.Stat(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(next, info.Size()-3); err != nil {
		t.Fatal(err)
	}
	if got := known(t, path, system, "base/5/1", "base/5/3"); got != "base/5/1 " {
		t.Errorf("before the end of the pass: %s", got)
	}
	b, err := Open(path, system, started)
	if err != nil || !b.uninterrupted {
		t.Errorf("the same server: %+v, %v", b, err)
	}
	b.Close()
	later := started.Add(time.Second)
	write(t, path, later, true, true, "base/5/5")
	if b, err = Open(path, system, later); err != nil || b.uninterrupted {
		t.Errorf("two servers: %+v, %v", b, err)
	}
	b.Close()
	if got := known(t, path, system, "base/5/1", "base/5/3", "base/5/4", "base/5/5"); got != "base/5/3 base/5/5 " {
		t.Errorf("after it: %s", got)
	}
	write(t, path, started, false, false, "base/5/6")
	write(t, path, started, false, true, "base/5/7")
	if got := known(t, path, system, "base/5/5", "base/5/6", "base/5/7"); got != "base/5/7 " {
		t.Errorf("begun anew: %s", got)
	}
}

// TestSweep begins a pass where others have left books and what killed processes wrote.
func TestSweep(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	for name, days := range map[string]int{"5": 200, "6": 200, "7": 80, "7.1.next": 8, "7.2.next": 1} {
		path := filepath.Join(directory, name)
		when := time.Now().AddDate(0, 0, -days)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(directory, "5"), started, false, false)
	left, err := filepath.Glob(filepath.Join(directory, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if got := strings.Join(left, " "); got != "5 5.next 7 7.2.next" {
		t.Errorf("left: %s", got)
	}
}

// TestDamagedBook changes each byte of a book: it knows less, but nothing wrong.
func TestDamagedBook(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "5")
	names := []string{"base/5/1", "base/5/2"}
	write(t, path, started, false, true, names...)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sound {
		for _, change := range []byte{1, 0x80, 0xff} {
			damaged := append([]byte{}, sound...)
			damaged[i] ^= change
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			ofStart := i >= headSize-8 && i < headSize // only says that the server is another one
			if got := known(t, path, system, names...); got == "base/5/1 base/5/2 " && !ofStart {
				t.Errorf("byte %d", i)
			}
		}
		if err := os.WriteFile(path, sound[:i], 0o600); err != nil {
			t.Fatal(err)
		}
		if got := known(t, path, system, names...); got == "base/5/1 base/5/2 " {
			t.Errorf("cut after %d bytes", i)
		}
	}
}

// TestFull keeps more than a book may have.
func TestFull(t *testing.T) {
	t.Parallel()
	b, err := Open(filepath.Join(t.TempDir(), "5"), system, started)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Begin(false, false); err != nil {
		t.Fatal(err)
	}
	f := NewFile("base/5/1", 0, 1<<17, time.Now())
	if err := b.Keep(f); err != nil {
		t.Error(err)
	}
	b.end = maxBytes - size<<17
	if err := b.Keep(f); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
}

// TestLatest gives the last position where a page can have been changed.
func TestLatest(t *testing.T) {
	t.Parallel()
	for _, settled := range []uint64{1 << 16, 1<<27 - 8, 1 << 27, 1<<40 + 12345*8} {
		f := NewFile("", settled, 0, time.Time{})
		for _, back := range []uint64{0, 8, 1 << 15, 1 << 16} {
			if got := f.latest(of(settled-back, 99)); got != settled-back {
				t.Errorf("%x: %x instead of %x", settled, got, settled-back)
			}
		}
		if got := f.latest(of(settled+8, 99)); got > settled {
			t.Errorf("%x is behind %x", got, settled)
		}
	}
}
