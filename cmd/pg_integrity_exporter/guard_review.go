package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/internal/maintenance/activity"
)

// reviewFlags are the flags of the command guard review.
type reviewFlags struct {
	guardFlags

	from, to string
}

func addGuardReview(app *kingpin.Application, g *globals) (string, command) {
	f := &reviewFlags{guardFlags: guardFlags{globals: g}}
	cmd := app.GetCommand("guard").Command("review", "Rank all maintenance that was seen in a period by risk, with reasons.")
	f.common(cmd)
	cmd.Flag("from", "Begin of the period, RFC 3339; without it a week before its end.").PlaceHolder("TIME").StringVar(&f.from)
	cmd.Flag("to", "End of the period, RFC 3339; without it now.").PlaceHolder("TIME").StringVar(&f.to)
	return cmd.FullCommand(), f.review
}

func (f *reviewFlags) review(context.Context) int {
	if err := f.write(); err != nil {
		f.fail(err)
		return 1
	}
	return 0
}

func (f *reviewFlags) write() error {
	to := time.Now()
	var err error
	if f.to != "" {
		if to, err = time.Parse(time.RFC3339, f.to); err != nil {
			return fmt.Errorf("--to=%s: expected a time such as 2026-03-14T22:00:00Z", f.to)
		}
	}
	from := to.Add(-7 * 24 * time.Hour)
	if f.from != "" {
		if from, err = time.Parse(time.RFC3339, f.from); err != nil {
			return fmt.Errorf("--from=%s: expected a time such as 2026-03-14T22:00:00Z", f.from)
		}
	}
	options, c, err := f.target()
	if err != nil {
		return err
	}
	reviewed, err := activity.Review(options.Files, c.Maintenance.Schedules(), from, to)
	if err != nil {
		return err
	}
	if f.output != "json" {
		return activity.WriteReview(f.stdout, reviewed)
	}
	encoder := json.NewEncoder(f.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(reviewed)
}
