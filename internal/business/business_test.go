package business_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/business"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHours(t *testing.T) {
	t.Parallel()
	hours, err := business.ParseHours("mon-fri 08:00-18:00, Sat 09:00-12:00", "Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	always, err := business.ParseHours("", "")
	if err != nil {
		t.Fatal(err)
	}
	nights, err := business.ParseHours("sun-sat 00:00-06:00, sun-sat 20:00-24:00", "UTC")
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) time.Time {
		moment, err := time.Parse("2006-01-02 15:04 MST", text+" UTC")
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	for _, c := range []struct {
		hours     business.Hours
		last, now string
		want      time.Duration
	}{
		{hours, "2026-07-06 09:00", "2026-07-06 09:30", 30 * time.Minute},              // Monday 11:30 in Berlin
		{hours, "2026-07-03 15:00", "2026-07-06 06:20", 4*time.Hour + 20*time.Minute},  // Friday, Saturday, and since the week began
		{hours, "2026-07-03 15:00", "2026-07-06 05:59", 0},                             // before it began
		{hours, "2026-07-03 15:00", "2026-07-04 08:00", 2 * time.Hour},                 // an hour on Friday, one on Saturday
		{hours, "2026-07-03 15:00", "2026-07-05 10:00", 0},                             // Sunday
		{hours, "2026-07-06 09:00", "2026-07-06 16:00", 0},                             // closing time
		{hours, "2026-06-29 06:00", "2026-07-03 06:30", 40*time.Hour + 30*time.Minute}, // longer than any day
		{nights, "2026-07-05 20:00", "2026-07-06 00:30", 4*time.Hour + 30*time.Minute}, // over midnight
		{hours, "2026-03-27 17:00", "2026-03-30 06:10", 3*time.Hour + 10*time.Minute},  // summer time began
		{always, "2026-07-03 15:00", "2026-07-05 15:00", 48 * time.Hour},
		{always, "2026-07-05 15:00", "2026-07-05 14:00", 0}, // a clock that is behind
	} {
		if got := c.hours.Silence(at(c.last), at(c.now)); got != c.want {
			t.Errorf("last %s, now %s: %s, want %s", c.last, c.now, got, c.want)
		}
	}
	unknown := business.Count{Since: at("2026-07-05 14:00")}
	if got := unknown.Silence(at("2026-07-05 15:00")); got != time.Hour {
		t.Errorf("silence since the first count: %s", got)
	}
	for _, wrong := range []string{"monday 08:00-18:00", "mon 18:00-08:00", "mon", "mon 8-18", "mon-fri 08:00-25:00"} {
		if _, err := business.ParseHours(wrong, ""); err == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
}

// TestWatcher counts while transactions succeed, fail, and while their table is
// gone.
func TestWatcher(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE TABLE queue (status text, finished timestamptz); INSERT INTO queue VALUES ('done', now() - interval '1 hour'), ('done', now()), ('failed', now()), ('stuck', NULL)")
	target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	transaction := business.Transaction{Name: "postings", Database: "postgres", SQL: "SELECT status, count(*), max(finished) FROM public.queue GROUP BY 1;", Interval: 100 * time.Millisecond, Timeout: time.Second}
	w := business.New(target, []business.Transaction{transaction}, slog.New(slog.DiscardHandler))
	w.Start()
	defer w.Stop()
	await := func(what string, condition func(c business.Count) bool) {
		t.Helper()
		pgtest.Await(t, what, 20*time.Second, func() bool { return condition(w.Counts()[0]) })
	}
	await("counted", func(c business.Count) bool {
		return c.Up && c.ByOutcome[business.OutcomeDone] == 2 && c.ByOutcome[business.OutcomeStuck] == 1 &&
			c.FailureRatio() > 0.33 && c.FailureRatio() < 0.34 && time.Since(c.LastDone) < time.Minute
	})
	server.MustExec(t, "postgres", "UPDATE queue SET status = 'failed'")
	await("failures counted", func(c business.Count) bool { return c.FailureRatio() == 1 })
	server.MustExec(t, "postgres", "DROP TABLE queue")
	await("told that it cannot count", func(c business.Count) bool { return !c.Up && !c.LastSuccess.IsZero() })

	for sql, want := range map[string]string{
		"SELECT 'won', 1":          `the outcome "won"`,
		"SELECT 1":                 "1 columns",
		"SELECT 'done', NULL::int": "NULL",
		"SELECT 'done', 1 FROM generate_series(1, 200)":      "more than 100 rows",
		"SELECT 'done', 1) AS t; DROP DATABASE x; SELECT (1": "cannot insert multiple commands",
		"SELECT 'done', pg_sleep(5)::text::int":              "statement timeout",
	} {
		transaction.SQL = sql
		_, _, err := business.Ask(t.Context(), target, transaction)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", sql, err, want)
		}
	}
}
