package process

import (
	"bytes"
	"os"
	"strconv"
	"testing"
)

// TestUnmapProgram holds that less of the program is mapped, and that it goes on.
func TestUnmapProgram(t *testing.T) {
	mapped := func() int {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(status) {
			if name, value, _ := bytes.Cut(line, []byte(":")); string(name) == "RssFile" {
				n, err := strconv.Atoi(string(bytes.Fields(value)[0]))
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Skip("this kernel does not tell what is mapped")
		return 0
	}
	before := mapped()
	unmapProgram()
	if after := mapped(); after >= before {
		t.Errorf("%d KiB are mapped after %d", after, before)
	}
	for range 3 {
		New("test").Append(nil)
		unmapProgram()
	}
}
