package pgtest

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"syscall"
)

// Breakage is one way to break a file, whatever is in it.
type Breakage struct {
	Name string
	Do   func(path string) error
}

// Breakages lists the ways. Those that change the content fail on an empty file.
func Breakages() []Breakage {
	change := func(f func(b []byte) []byte) func(string) error {
		return func(path string) error {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if len(content) == 0 {
				return fs.ErrInvalid
			}
			return os.WriteFile(path, f(content), 0o600)
		}
	}
	return []Breakage{
		{"lost", os.Remove},
		{"emptied", change(func([]byte) []byte { return nil })},
		{"cut", change(func(b []byte) []byte { return b[:len(b)/2] })},
		{"a byte more", change(func(b []byte) []byte { return append(b, 'x') })},
		{"zeroed", change(func(b []byte) []byte { clear(b); return b })},
		{"half zeroed", change(func(b []byte) []byte { clear(b[len(b)/2:]); return b })},
		{"random", change(func(b []byte) []byte {
			random := rand.New(rand.NewPCG(uint64(len(b)), 1))
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			return b
		})},
		{"a byte flipped", change(func(b []byte) []byte { b[len(b)/3] ^= 0x55; return b })},
		{"a directory", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		}},
		{"a pipe", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return syscall.Mkfifo(path, 0o600)
		}},
		{"a dead link", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink("nowhere", path)
		}},
	}
}
