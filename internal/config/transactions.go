package config

import (
	"strconv"
	"time"

	"pg_integrity_exporter/internal/business"
	"pg_integrity_exporter/internal/check"
)

// Transaction is a kind of business transaction, such as postings, payments or
// payroll runs, that is counted by outcome.
type Transaction struct {
	// Name is the label transaction.
	Name string `yaml:"name"`
	// Database is where the SQL runs.
	Database string `yaml:"database"`
	// SQL is one SELECT with the columns outcome (done, failed, stuck, pending),
	// count and, if wanted, the time of the last one.
	SQL string `yaml:"sql"`
	// Interval is the time from one count to the next, Timeout its
	// statement_timeout.
	Interval time.Duration `yaml:"interval"`
	Timeout  time.Duration `yaml:"timeout"`
	// MaxFailureRatio is the share of failed ones that is still normal.
	MaxFailureRatio float64 `yaml:"max_failure_ratio"`
	// MaxStuck is how many stuck ones are still normal.
	MaxStuck int `yaml:"max_stuck"`
	// MaxSilence is how long no one need be done within the working hours; 0 is
	// for ever.
	MaxSilence time.Duration `yaml:"max_silence"`
	// WorkingHours are like "mon-fri 08:00-18:00"; empty is always.
	WorkingHours string `yaml:"working_hours"`
	// TimeZone is that of the working hours, for example Europe/Berlin; empty is
	// UTC.
	TimeZone string `yaml:"time_zone"`
}

// maxTransactions bounds the kinds of transactions, which have series.
const maxTransactions = 50

func (c *Config) defaultTransactions() {
	for n := range c.Transactions {
		t := &c.Transactions[n]
		if t.Interval == 0 {
			t.Interval = 30 * time.Second
		}
		if t.Timeout == 0 {
			t.Timeout = 10 * time.Second
		}
		if t.MaxFailureRatio == 0 {
			t.MaxFailureRatio = 0.05
		}
	}
}

func (c *Config) validateTransactions(fail failer) error {
	if len(c.Transactions) > maxTransactions {
		return fail("there may be at most %d entries", []any{maxTransactions}, "transactions")
	}
	seen := make(map[string]bool)
	for n, t := range c.Transactions {
		e := entry{fail, []string{"transactions", strconv.Itoa(n)}, seen}
		if t.Database == "" {
			return e.fail("database", "say in which database, for example erp")
		}
		if err := e.named(t.Name, []string{"*"}, check.SeverityCritical); err != nil {
			return err
		}
		switch {
		case !selects.MatchString(t.SQL):
			return e.fail("sql", "must be one SELECT of outcome, count and, if wanted, the time of the last one")
		case t.Interval < 5*time.Second:
			return e.fail("interval", "must be at least 5s, not %s", t.Interval)
		case t.Timeout < time.Second || t.Timeout > 10*time.Minute:
			return e.fail("timeout", "must be between 1s and 10m, not %s", t.Timeout)
		case t.MaxFailureRatio < 0 || t.MaxFailureRatio > 1:
			return e.fail("max_failure_ratio", "must be between 0 and 1")
		case t.MaxStuck < 0:
			return e.fail("max_stuck", "must not be negative")
		case t.MaxSilence < 0:
			return e.fail("max_silence", "must not be negative; 0 is for ever")
		}
		if _, err := business.ParseHours(t.WorkingHours, t.TimeZone); err != nil {
			return e.fail("working_hours", "%v", err)
		}
	}
	return nil
}

// Business is the transactions as they are counted.
func (c Config) Business() []business.Transaction {
	var list []business.Transaction
	for _, t := range c.Transactions {
		// It was validated.
		hours, _ := business.ParseHours(t.WorkingHours, t.TimeZone)
		list = append(list, business.Transaction{
			Name: t.Name, Database: t.Database, SQL: t.SQL, Interval: t.Interval, Timeout: t.Timeout,
			MaxFailureRatio: t.MaxFailureRatio, MaxStuck: t.MaxStuck, MaxSilence: t.MaxSilence, Hours: hours,
		})
	}
	return list
}
