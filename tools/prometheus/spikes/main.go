// Spikes measures the alerts about errors on synthetic and on recorded traffic,
// with Prometheus' own query engine: how long after the begin of an incident they
// fire, and how often a month without one. It prints tables in Markdown.
//
//	tools/spikes.sh > docs/benchmarks/alerts.md
//
// It is here, and not among the tests, because it needs Prometheus as a
// library and evaluates 38 days of minutes.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"go.yaml.in/yaml/v3"
)

const (
	// warmUp is how much the rules have seen before anything counts, measured how
	// long is looked at, step the distance of scrapes and evaluations.
	warmUp   = 8 * 24 * time.Hour
	measured = 30 * 24 * time.Hour
	step     = time.Minute
	// incident is how long an incident lasts, and one begins every so often.
	incidentLength = 30 * time.Minute
	incidentEvery  = 65*time.Hour + 7*time.Minute
	// incidentShare is how many of the transactions fail in it.
	incidentShare = 0.2
)

// epoch is a Monday.
var epoch = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// minute is what happens to a database within a minute; faults are the errors
// that are the server's.
type minute struct{ transactions, failed, faults float64 }

// traffic is a way in which a database is used.
type traffic struct {
	name, description string
	at                func(t time.Time, random *rand.Rand) minute
	// incidents are their beginnings; fail is what happens in a minute when there
	// are any.
	incidents []time.Time
	fail      func(t time.Time, m minute) minute
}

// synthetic is traffic that a formula makes. Half of what fails is the server's
// fault.
func synthetic(name, description string, at func(t time.Time, random *rand.Rand) (transactions, failed float64)) traffic {
	counted := func(transactions, failed float64) minute { return minute{transactions, failed, math.Round(failed / 2)} }
	begins := regularly()
	return traffic{
		name: name, description: description, incidents: begins,
		at: func(t time.Time, random *rand.Rand) minute { return counted(at(t, random)) },
		fail: func(t time.Time, m minute) minute {
			if !during(begins, t) {
				return m
			}
			return counted(m.transactions, min(m.transactions, m.failed+math.Round(m.transactions*incidentShare)))
		},
	}
}

// during says whether one of the incidents goes on.
func during(begins []time.Time, t time.Time) bool {
	return slices.ContainsFunc(begins, func(begin time.Time) bool { return !t.Before(begin) && t.Before(begin.Add(incidentLength)) })
}

func poisson(mean float64, random *rand.Rand) float64 {
	return max(0, math.Round(mean+math.Sqrt(mean)*random.NormFloat64()))
}

func usage() []traffic {
	burst := 0
	deploy := time.Time{}
	return []traffic{
		synthetic("quiet", "one transaction a minute, one in twenty fails", func(_ time.Time, random *rand.Rand) (transactions, failed float64) {
			n := poisson(1, random)
			for range int(n) {
				if random.Float64() < 0.05 {
					failed++
				}
			}
			return n, failed
		}),
		synthetic("bursty", "300 a minute, 1 % fail; about six times a day for 5 to 15 minutes 30 % fail", func(_ time.Time, random *rand.Rand) (transactions, failed float64) {
			n := poisson(300*math.Exp(random.NormFloat64()/2), random)
			if burst == 0 && random.Float64() < 6.0/1440 {
				burst = 5 + random.IntN(11)
			}
			share := 0.01
			if burst > 0 {
				burst--
				share = 0.3
			}
			return n, min(n, poisson(n*share, random))
		}),
		synthetic("daily cycle", "60 a minute at night to 6000 by day, 1 % fail; a batch from 02:00 to 02:30 of which 25 % fail", func(t time.Time, random *rand.Rand) (transactions, failed float64) {
			hour := float64(t.Hour()) + float64(t.Minute())/60
			n := poisson(3030-2970*math.Cos(2*math.Pi*(hour-3)/24), random)
			share := 0.01
			if t.Hour() == 2 && t.Minute() < 30 {
				n, share = n+600, 0.25
			}
			return n, min(n, poisson(n*share, random))
		}),
		synthetic("deployments", "1200 a minute, 0.5 % fail; on working days about 10:00 for 60 to 90 seconds 40 % fail", func(t time.Time, random *rand.Rand) (transactions, failed float64) {
			if t.Hour() == 0 && t.Minute() == 0 {
				deploy = t.Add(10*time.Hour + time.Duration(random.IntN(60)-30)*time.Minute)
			}
			n := poisson(1200, random)
			share := 0.005
			if weekday := t.Weekday(); weekday != time.Saturday && weekday != time.Sunday {
				switch t.Sub(deploy) {
				case 0:
					share = 0.4
				case time.Minute:
					share = 0.4 * random.Float64() / 2
				}
			}
			return n, min(n, poisson(n*share, random))
		}),
	}
}

// rule is what is read of the shipped files.
type rule struct {
	Record, Alert, Expr string
	For                 model.Duration
	Labels              map[string]string
}

type group struct {
	Name     string
	Interval model.Duration
	Rules    []rule
}

func readRules(directory string) ([]group, error) {
	var groups []group
	for _, name := range []string{"postgres-errors", "postgres-history"} {
		content, err := os.ReadFile(filepath.Join(directory, name+".yaml"))
		if err != nil {
			return nil, err
		}
		var file struct{ Groups []group }
		if err := yaml.Unmarshal(content, &file); err != nil {
			return nil, err
		}
		groups = append(groups, file.Groups...)
	}
	return groups, nil
}

// compared are the alerts of the table: those that ship here, and the rollback
// ratio of the well-known rule sets.
func compared(groups []group) []rule {
	const ratio = `sum by (datname) (rate(pgintegrity_transactions_total{outcome="rollback"}[%s])) / sum by (datname) (rate(pgintegrity_transactions_total[%s])) > %s`
	rules := []rule{
		{Alert: "rollback ratio > 2 %, at once", Expr: fmt.Sprintf(ratio, "3m", "3m", "0.02")},
		{Alert: "rollback ratio > 10 %, at once", Expr: fmt.Sprintf(ratio, "5m", "5m", "0.1")},
		{Alert: "rollback ratio > 10 %, for 5 minutes", Expr: fmt.Sprintf(ratio, "5m", "5m", "0.1"), For: model.Duration(5 * time.Minute)},
	}
	for _, g := range groups {
		for _, r := range g.Rules {
			if slices.Contains([]string{"PostgresTransactionsFailing", "PostgresErrorSpike", "PostgresErrorBudgetBurn"}, r.Alert) {
				r.Alert += " (" + r.Labels["severity"] + ")"
				rules = append(rules, r)
			}
		}
	}
	return rules
}

// world is the series of one simulation.
type world struct {
	db     *tsdb.DB
	engine *promql.Engine
}

func (w *world) query(ctx context.Context, expr string, from, to time.Time, every time.Duration) (promql.Matrix, error) {
	query, err := w.engine.NewRangeQuery(ctx, w.db, nil, expr, from, to, every)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	defer query.Close()
	result := query.Exec(ctx)
	if result.Err != nil {
		return nil, fmt.Errorf("%s: %w", expr, result.Err)
	}
	matrix, err := result.Matrix()
	if err != nil {
		return nil, err
	}
	copied := make(promql.Matrix, len(matrix))
	for i, series := range matrix {
		copied[i] = promql.Series{Metric: series.Metric.Copy(), Floats: slices.Clone(series.Floats)}
	}
	return copied, nil
}

// regularly are incidents at all hours.
func regularly() []time.Time {
	var list []time.Time
	for t := epoch.Add(warmUp + 5*time.Hour); t.Before(epoch.Add(warmUp + measured - time.Hour)); t = t.Add(incidentEvery) {
		list = append(list, t)
	}
	return list
}

// simulate writes the counters of the whole time.
func (w *world) simulate(ctx context.Context, use traffic, broken bool) error {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same every time
	series := func(name string, extra ...string) labels.Labels {
		return labels.FromStrings(append([]string{"__name__", name, "job", "pg_integrity_exporter", "instance", "erp:10187", "datname", "erp"}, extra...)...)
	}
	commits, rollbacks := series("pgintegrity_transactions_total", "outcome", "commit"), series("pgintegrity_transactions_total", "outcome", "rollback")
	faults := series("pgintegrity_errors_total", "sqlstate", "40001", "condition_name", "serialization_failure")
	var committed, failed, faulty float64
	refs := make(map[string]storage.SeriesRef)
	for t := epoch; t.Before(epoch.Add(warmUp + measured)); t = t.Add(step) {
		m := use.at(t, random)
		if broken {
			m = use.fail(t, m)
		}
		committed, failed, faulty = committed+m.transactions-m.failed, failed+m.failed, faulty+m.faults
		appender := w.db.Appender(ctx)
		for _, sample := range []struct {
			name   string
			labels labels.Labels
			value  float64
		}{{"commits", commits, committed}, {"rollbacks", rollbacks, failed}, {"faults", faults, faulty}} {
			ref, err := appender.Append(refs[sample.name], sample.labels, t.UnixMilli(), sample.value)
			if err != nil {
				return err
			}
			refs[sample.name] = ref
		}
		if err := appender.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// record evaluates the recording rules over the whole time.
func (w *world) record(ctx context.Context, groups []group) error {
	for _, g := range groups {
		every := max(step, time.Duration(g.Interval))
		for _, r := range g.Rules {
			if r.Record == "" {
				continue
			}
			matrix, err := w.query(ctx, r.Expr, epoch, epoch.Add(warmUp+measured), every)
			if err != nil {
				return err
			}
			appender := w.db.Appender(ctx)
			for _, series := range matrix {
				builder := labels.NewBuilder(series.Metric)
				builder.Set("__name__", r.Record)
				named := builder.Labels()
				for _, point := range series.Floats {
					if _, err := appender.Append(0, named, point.T, point.F); err != nil {
						return fmt.Errorf("%s: %w", r.Record, err)
					}
				}
			}
			if err := appender.Commit(); err != nil {
				return err
			}
		}
	}
	return nil
}

// firings are the stretches of time in which the alert fires, those less than
// 15 minutes apart joined, as people see them.
func (w *world) firings(ctx context.Context, r rule) ([][2]time.Time, error) {
	matrix, err := w.query(ctx, r.Expr, epoch.Add(warmUp), epoch.Add(warmUp+measured), step)
	if err != nil {
		return nil, err
	}
	var list [][2]time.Time
	for _, series := range matrix {
		var since, last time.Time
		for _, point := range series.Floats {
			t := time.UnixMilli(point.T)
			if last.IsZero() || t.Sub(last) > step {
				since = t
			}
			last = t
			if t.Sub(since) < time.Duration(r.For) {
				continue
			}
			if n := len(list); n > 0 && t.Sub(list[n-1][1]) <= 15*time.Minute {
				list[n-1][1] = t
			} else {
				list = append(list, [2]time.Time{t, t})
			}
		}
	}
	return list, nil
}

// run simulates one use of a database and gives the firings of each rule.
func run(ctx context.Context, use traffic, broken bool, groups []group, rules []rule) (map[string][][2]time.Time, error) {
	directory, err := os.MkdirTemp("", "spikes-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(directory)
	options := tsdb.DefaultOptions()
	// One head holds everything, so that rules can be recorded afterwards.
	options.MinBlockDuration = (400 * 24 * time.Hour).Milliseconds()
	options.MaxBlockDuration = options.MinBlockDuration
	options.RetentionDuration = 0
	db, err := tsdb.Open(directory, slog.New(slog.DiscardHandler), nil, options, nil)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	db.DisableCompactions()
	w := &world{db: db, engine: promql.NewEngine(promql.EngineOpts{MaxSamples: 500_000_000, Timeout: 30 * time.Minute, LookbackDelta: 5 * time.Minute})}
	if err := w.simulate(ctx, use, broken); err != nil {
		return nil, err
	}
	if err := w.record(ctx, groups); err != nil {
		return nil, err
	}
	found := make(map[string][][2]time.Time)
	for _, r := range rules {
		if found[r.Alert], err = w.firings(ctx, r); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// delays are how long after the begin of each incident the alert fired.
func delays(firings [][2]time.Time, incidents []time.Time) []time.Duration {
	var list []time.Duration
	for _, begin := range incidents {
		for _, f := range firings {
			if f[1].Before(begin) || f[0].After(begin.Add(incidentLength)) {
				continue
			}
			list = append(list, max(0, f[0].Sub(begin)))
			break
		}
	}
	slices.Sort(list)
	return list
}

func main() {
	if err := report(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "spikes:", err)
		os.Exit(1)
	}
}

func report(ctx context.Context) error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: spikes RULES_DIRECTORY")
	}
	groups, err := readRules(os.Args[1])
	if err != nil {
		return err
	}
	days, err := readRecording()
	if err != nil {
		return err
	}
	fmt.Printf(`# Alerts about errors, measured

Generated by `+"`tools/spikes.sh`"+` from the shipped rules, evaluated by Prometheus' own engine over %d days of traffic after %d days of history,
scraped and evaluated every minute. False alarms are pages in a month without an incident; firings less than 15 minutes apart are one page.
Then the same with incidents of %d minutes each: how many were found while they lasted, and how long after their begin (median).

# Synthetic traffic

%d incidents at all hours, in which %.0f %% of the transactions fail besides.

`, int(measured.Hours()/24), int(warmUp.Hours()/24), int(incidentLength.Minutes()), len(regularly()), 100*incidentShare)
	rules := compared(groups)
	for _, use := range usage() {
		if err := table(ctx, use, groups, rules); err != nil {
			return err
		}
	}
	fmt.Print("# Recorded traffic\n\n" + recordedRemarks)
	if err := table(ctx, recorded(days), groups, rules); err != nil {
		return err
	}
	fmt.Print(remarks)
	return nil
}

// table prints how each rule does with a use of a database.
func table(ctx context.Context, use traffic, groups []group, rules []rule) error {
	quiet, err := run(ctx, use, false, groups, rules)
	if err != nil {
		return err
	}
	broken, err := run(ctx, use, true, groups, rules)
	if err != nil {
		return err
	}
	fmt.Printf("## %s\n\n%s.\n\n| alert | false alarms a month | incidents found | median delay |\n| --- | --- | --- | --- |\n", use.name, use.description)
	for _, r := range rules {
		found := delays(broken[r.Alert], use.incidents)
		median := "-"
		if len(found) > 0 {
			median = fmt.Sprintf("%d min", int(found[len(found)/2].Minutes()))
		}
		fmt.Printf("| %s | %d | %d of %d | %s |\n", r.Alert, len(quiet[r.Alert]), len(found), len(use.incidents), median)
	}
	fmt.Println()
	return nil
}

const remarks = `# How to read it

- A quiet database has too little traffic for any ratio: the alerts about errors say nothing there, and those about integrity, which need
  no traffic, do the work.
- The bursts of the bursty database are worse than the incident (30 % against 20 % fail), so nothing can find all incidents and no burst.
- The deployments show what two minutes of waiting are for.
- In the recorded traffic the pages of PostgresTransactionsFailing without an incident are the bursts of one of the two days, in which 15 % of
  the transactions fail for four minutes and more: no incident of ours, but nothing invented either.
- PostgresErrorSpike and PostgresErrorBudgetBurn count what is the server's fault: a lost column is not, and they leave it to
  PostgresTransactionsFailing.
- The warning of the error budget looks at a day: once a first incident has used up the budget, it is firing already when the next begins.
`
