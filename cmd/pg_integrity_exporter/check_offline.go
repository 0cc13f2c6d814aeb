package main

import (
	"context"
	"errors"
	"fmt"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/offline"
	"pg_integrity_exporter/internal/state"
)

// lookOffline looks at the data directory of a server that is down or will not
// start.
func (f *checkFlags) lookOffline(ctx context.Context) (check.Document, error) {
	switch {
	case f.pgdata == "":
		return check.Document{}, errors.New("--offline needs --pgdata=DIR, the server's data directory (or PGDATA)")
	case len(f.databases) > 0 || len(f.relations) > 0:
		return check.Document{}, errors.New("--database and --relation do not go with --offline, which looks at the whole data directory")
	case f.dsn != "":
		return check.Document{}, errors.New("--dsn does not go with --offline, which connects to no server")
	case f.rateLimit < 0:
		return check.Document{}, errors.New("--rate-limit must not be negative")
	}
	options := offline.Options{
		Directory: f.pgdata, Imprints: state.ImprintDirectories(f.statePath), Only: f.only, Exclude: f.exclude, RateLimit: int64(f.rateLimit), Logger: f.logger,
	}
	if terminal(f.stderr) {
		options.Progress = func(r check.Result) { fmt.Fprint(f.stderr, progress(r)) }
	}
	return offline.Run(ctx, options)
}
