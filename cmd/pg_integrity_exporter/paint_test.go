package main

import (
	"bytes"
	"testing"
)

// TestPainted holds that only the words at the beginning of a line that say how it
// stands have colours.
func TestPainted(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"  ok       server: ok\n  failed   locks: x\n": "\x1b[32m  ok\x1b[0m       server: ok\n\x1b[31m  failed\x1b[0m   locks: x\n",
		"\nrolled back (exit code 1): done\n":          "\n\x1b[33mrolled back\x1b[0m (exit code 1): done\n",
		"not rolled back  run\n":                       "\x1b[31mnot rolled back\x1b[0m  run\n",
		"nightly: PROVED":                              "\x1b[32mnightly: PROVED\x1b[0m",
		"okay, it is done":                             "okay, it is done",
	} {
		var out bytes.Buffer
		if n, err := (painter{&out}).Write([]byte(text)); n != len(text) || err != nil || out.String() != want {
			t.Errorf("%q became %q, want %q (%d, %v)", text, out.String(), want, n, err)
		}
	}
}
