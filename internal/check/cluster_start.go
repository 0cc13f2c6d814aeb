package check

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/conf"
	"pg_integrity_exporter/internal/datadir"
)

// startValuesSQL gives the value of each parameter at the next start: what the command
// line says, else the last line of the files, else the default. pg_settings and
// pg_file_settings only.
const startValuesSQL = `WITH file AS MATERIALIZED (SELECT DISTINCT ON (lower(name)) lower(name) AS name, setting FROM pg_file_settings
		WHERE name IS NOT NULL AND setting IS NOT NULL ORDER BY lower(name), seqno DESC)
	SELECT s.name, CASE WHEN s.source IN ('command line', 'environment variable') THEN current_setting(s.name) ELSE coalesce(f.setting, s.boot_val, '') END
	FROM pg_settings s LEFT JOIN file f ON f.name = lower(s.name)`

// nextStart reports settings of the configuration files that the server takes one by
// one, but with which it would not start.
func (r *clusterReader) nextStart(ctx context.Context) error {
	rows, err := r.conn.Query(ctx, startValuesSQL)
	if err != nil {
		return err
	}
	values := make(map[string]string)
	var name, value string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		values[name] = value
		return nil
	}); err != nil {
		return err
	}
	r.start = conf.Start{Major: r.conn.Facts.Major(), Recovering: r.conn.Facts.InRecovery, Value: func(name, otherwise string) string {
		if value, known := values[name]; known {
			return value
		}
		return otherwise
	}}
	if err := r.conn.QueryRow(ctx, "SELECT count(*) FROM pg_prepared_xacts").Scan(&r.start.Prepared); err != nil {
		return err
	}
	const slotsSQL = "SELECT slot_name::text, slot_type = 'logical' FROM pg_replication_slots WHERE NOT temporary"
	rows, err = r.conn.Query(ctx, slotsSQL)
	if err != nil {
		return err
	}
	slots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[conf.Slot])
	if err != nil {
		return err
	}
	r.misfits(r.start.Combinations())
	r.misfits(r.start.Limits())
	r.misfits(r.start.Slots(slots))
	return nil
}

// misfits reports what stops the next start.
func (r *clusterReader) misfits(misfits []conf.Misfit) {
	for _, m := range misfits {
		r.found(Finding{
			Class: ClassUnsafeSetting, Severity: SeverityCritical, Message: m.Text,
			Impact: "The server runs on, but the next start fails. " + m.Impact,
			Action: m.Action + " Do not restart the server before.",
		}, "start "+m.Parameter+KindOf(m.Text))
	}
}

// startPlaces looks for the files that the next start needs and that are not in the
// data directory, if this process sees them as the server does: certificates and
// libraries go with packages, and the server runs on without.
func (r *clusterReader) startPlaces(ctx context.Context) error {
	if !r.files.Local() || r.start.Value == nil {
		return nil
	}
	start := r.start
	start.Prepared = 0 // told of already
	start.Primary = r.control.Limits()
	r.misfits(start.Limits())
	data := datadir.Here(ctx, r.conn)
	root, program, ok := datadir.Postmaster(data)
	if !ok {
		return nil
	}
	look := func() []conf.Misfit {
		place := conf.Place{Root: root, Data: data, Program: program}
		return append(start.Certificates(place), start.Libraries(place)...)
	}
	first := look()
	if len(first) == 0 {
		return nil
	}
	pauseToConfirm(ctx) // a package may be being replaced
	for _, m := range look() {
		if slices.Contains(first, m) {
			r.misfits([]conf.Misfit{m})
		}
	}
	return nil
}

// dataDirectory looks at the mode of the data directory.
func (r *clusterReader) dataDirectory(ctx context.Context) error {
	if !r.files.Local() {
		return nil
	}
	entry, err := r.files.Stat(ctx, ".")
	if err != nil {
		return err
	}
	if text := cluster.ModeProblem(entry.Mode); text != "" {
		r.found(Finding{
			Class: ClassUnsafeSetting, Severity: SeverityCritical, Message: text,
			Impact: "The server runs on, but the next start fails.",
			Action: cluster.ModeAction,
		}, "mode")
	}
	return nil
}
