package exposition_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/exposition"
)

// TestGzip undoes the compression with another library, which verifies length
// and checksum, for every way in which a page is put together.
func TestGzip(t *testing.T) {
	t.Parallel()
	var long strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&long, "pgintegrity_x{i=\"%d\"} %d\n", i, i*i)
	}
	for _, kept := range []string{"", "# TYPE a gauge\na 1\n", long.String()} {
		for _, fresh := range []string{"", "# TYPE b gauge\nb 2\n", long.String()} {
			for _, way := range []func() *exposition.Kept{
				func() *exposition.Kept { return exposition.Keep([]byte(kept)) },
				func() *exposition.Kept { return exposition.Keep([]byte(kept)).Dense() },
				func() *exposition.Kept {
					return exposition.Keep([]byte(kept[:len(kept)/2])).With([]byte(kept[len(kept)/2:]))
				},
				func() *exposition.Kept {
					return exposition.Keep([]byte(kept[:len(kept)/2])).Dense().With([]byte(kept[len(kept)/2:]))
				},
			} {
				page := exposition.Page{Fresh: []byte(fresh)}
				if kept != "" {
					page.Kept = way()
				}
				try(t, &page, kept+fresh)
			}
		}
	}
}

func try(t *testing.T, page *exposition.Page, want string) {
	t.Helper()
	if got := string(page.Text()); got != want {
		t.Errorf("the text has %d bytes, not %d", len(got), len(want))
	}
	for range 2 { // what is kept is used again
		var out bytes.Buffer
		page.Gzip(&out)
		reader, err := gzip.NewReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		reader.Multistream(false)
		got, err := io.ReadAll(reader)
		if err != nil || string(got) != want || out.Len() != 0 {
			t.Errorf("%d bytes, not %d, and %d left: %v", len(got), len(want), out.Len(), err)
		}
	}
}
