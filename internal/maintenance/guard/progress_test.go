package guard

import (
	"testing"
	"time"
)

// TestPace estimates by the speed within one phase, and promises nothing before
// there is one.
func TestPace(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var p pace
	for n, c := range []struct {
		at    int
		stage stage
		want  string
	}{
		{0, stage{}, "0s so far"},
		{10, stage{"CREATE INDEX, building index", 100, 1000}, "CREATE INDEX, building index: 10 %"},
		{20, stage{"CREATE INDEX, building index", 200, 1000}, "CREATE INDEX, building index: 20 %, about 1m20s left in this phase"},
		{30, stage{"CREATE INDEX, building index", 600, 1000}, "CREATE INDEX, building index: 60 %, about 16s left in this phase"},
		{40, stage{"CREATE INDEX, waiting", 0, 5}, "CREATE INDEX, waiting: 0 %"},
		{50, stage{"CREATE INDEX, waiting", 5, 0}, "50s so far"},
	} {
		passed := time.Duration(c.at) * time.Second
		if got := p.tell(c.stage, now.Add(passed), passed); got != c.want {
			t.Errorf("%d: %q, want %q", n, got, c.want)
		}
	}
}
