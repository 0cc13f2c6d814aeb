package collector

import (
	"testing"
	"time"
)

func TestPredict(t *testing.T) {
	t.Parallel()
	began := time.Unix(1700000000, 0)
	const limit = 100 * time.Millisecond
	for name, c := range map[string]struct {
		arrivals []float64 // in seconds
		next     float64   // 0 is not known
		lead     time.Duration
	}{
		"one":                        {[]float64{0}, 0, 0},
		"two":                        {[]float64{0, 15}, 0, 0},
		"three":                      {[]float64{0, 15, 30}, 45, limit},
		"nearly":                     {[]float64{0, 15.02, 30}, 44.98, limit},
		"a late one":                 {[]float64{0, 15, 30.2}, 0, 0},
		"behind a late one":          {[]float64{0, 15.2, 30, 45, 60}, 75, limit},
		"a short interval":           {[]float64{0, 0.2, 0.4}, 0.6, 50 * time.Millisecond},
		"two scrapers":               {[]float64{0, 4, 15, 19, 30}, 34, limit},
		"two scrapers, the other":    {[]float64{4, 15, 19, 30, 34}, 45, limit},
		"three scrapers":             {[]float64{0, 4, 9, 15, 19, 24, 30}, 34, limit},
		"somebody between":           {[]float64{0, 15, 30, 33}, 0, 0},
		"two of different intervals": {[]float64{0, 7, 15, 27, 30}, 0, 0},
	} {
		var arrivals []time.Time
		for _, seconds := range c.arrivals {
			arrivals = append(arrivals, began.Add(time.Duration(seconds*float64(time.Second))))
		}
		next, lead := predict(arrivals, limit)
		want := began.Add(time.Duration(c.next * float64(time.Second)))
		if c.next == 0 {
			want = time.Time{}
		}
		if next.Sub(want).Abs() > time.Millisecond || lead != c.lead {
			t.Errorf("%s: %s and %s, not %s and %s", name, next, lead, want, c.lead)
		}
	}
}
