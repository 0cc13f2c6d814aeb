package activity

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/secret"
)

// catalogue is what one look found in the target's own database: it shows what
// was too quick to be seen while it ran.
type catalogue struct {
	// filenodes are the files of each table and index, names whose they are. An
	// index stands for its table.
	filenodes map[uint32]uint32
	names     map[uint32]check.RelationName
	triggers  map[string]check.RelationName // disabled ones
	versions  map[string]string             // of extensions
	settings  string                        // what ALTER SYSTEM wrote
	version   int
}

// catalogueSQL lists the files of the relations. ACCESS SHARE on catalogues, no
// privilege.
var catalogueSQL = fmt.Sprintf(`SELECT i.oid, coalesce(pg_relation_filenode(i.oid), 0), n.nspname::text, c.relname::text
	FROM pg_class i JOIN pg_class c ON c.oid = coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = i.oid), i.oid)
	JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE i.relkind IN ('r', 'm', 'i') AND i.relpersistence <> 't' AND n.nspname !~ '^pg_' ORDER BY i.oid LIMIT %d`, maxRelations)

const (
	triggersSQL = `SELECT n.nspname::text, c.relname::text, t.tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE t.tgenabled = 'D' AND n.nspname !~ '^pg_' ORDER BY t.oid LIMIT 1000`
	// What ALTER SYSTEM wrote is seen when it was read; the source is hidden from
	// roles without pg_read_all_settings.
	systemSQL = `SELECT coalesce(string_agg(name || '=' || setting, ' ' ORDER BY name), '') FROM pg_settings WHERE sourcefile LIKE '%postgresql.auto.conf'`
)

// read looks at the catalogue.
func read(ctx context.Context, conn *pg.Conn) (*catalogue, error) {
	c := &catalogue{
		filenodes: make(map[uint32]uint32), names: make(map[uint32]check.RelationName), triggers: make(map[string]check.RelationName),
		versions: make(map[string]string), version: conn.Facts.VersionNum,
	}
	rows, err := conn.Query(ctx, catalogueSQL)
	if err != nil {
		return nil, fmt.Errorf("reading the files of the relations: %w", err)
	}
	var oid, filenode uint32
	var name check.RelationName
	if _, err := pgx.ForEachRow(rows, []any{&oid, &filenode, &name.Schema, &name.Name}, func() error {
		c.filenodes[oid], c.names[oid] = filenode, name
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading the files of the relations: %w", err)
	}
	if rows, err = conn.Query(ctx, triggersSQL); err != nil {
		return nil, fmt.Errorf("reading disabled triggers: %w", err)
	}
	var trigger string
	if _, err := pgx.ForEachRow(rows, []any{&name.Schema, &name.Name, &trigger}, func() error {
		c.triggers[name.String()+"."+trigger] = name
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading disabled triggers: %w", err)
	}
	if rows, err = conn.Query(ctx, "SELECT extname::text, extversion FROM pg_extension"); err != nil {
		return nil, fmt.Errorf("reading the versions of extensions: %w", err)
	}
	var extension, version string
	if _, err := pgx.ForEachRow(rows, []any{&extension, &version}, func() error {
		c.versions[extension] = version
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading the versions of extensions: %w", err)
	}
	if err := conn.QueryRow(ctx, systemSQL).Scan(&c.settings); err != nil {
		return nil, fmt.Errorf("reading the settings of ALTER SYSTEM: %w", err)
	}
	return c, nil
}

// versionKind is the kind of the document that remembers the server's version:
// pg_upgrade replaces the server while nobody is connected.
const versionKind = "server_version"

// catalogue compares with the last look.
func (w *Watcher) catalogue(ctx context.Context, conn *pg.Conn) error {
	now, err := read(ctx, conn)
	if err != nil {
		return err
	}
	before := w.before
	w.before = now
	if before == nil {
		w.mu.Lock()
		w.ready = true
		w.mu.Unlock()
		return w.upgraded(now.version)
	}
	database := conn.Facts.Database
	for _, o := range changes(before, now) {
		o.Database, o.Started, o.Fraction = database, time.Now(), -1
		if o.Kind == Rewrite && w.watched(database, o.Relation) {
			continue // the statement itself is seen, and told when it ends
		}
		w.mu.Lock()
		w.seen[o.Kind]++
		w.mu.Unlock()
		w.tell(o, o.Started)
	}
	return nil
}

// watched says whether a statement on the relation is running.
func (w *Watcher) watched(database string, name check.RelationName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.running {
		if o.Database == database && o.Relation.Name == name.Name {
			return true
		}
	}
	return false
}

// changes lists what happened between two looks.
func changes(before, now *catalogue) []Operation {
	var found []Operation
	rewritten := make(map[check.RelationName]bool)
	for oid, filenode := range now.filenodes {
		if old, known := before.filenodes[oid]; known && old != filenode && !rewritten[now.names[oid]] {
			rewritten[now.names[oid]] = true
			found = append(found, Operation{Kind: Rewrite, Relation: now.names[oid], Statement: "new files: TRUNCATE, VACUUM FULL, CLUSTER, REINDEX, ALTER TABLE or a repack"})
		}
	}
	for trigger, name := range now.triggers {
		if _, known := before.triggers[trigger]; !known {
			found = append(found, Operation{Kind: DisabledTrigger, Relation: name, Statement: "trigger " + trigger + " was disabled"})
		}
	}
	for extension, version := range now.versions {
		if old, known := before.versions[extension]; known && old != version {
			found = append(found, Operation{Kind: Extension, Statement: fmt.Sprintf("extension %s went from version %s to %s", extension, old, version)})
		}
	}
	if before.settings != now.settings {
		found = append(found, Operation{Kind: AlterSystem, Statement: "ALTER SYSTEM changed settings: " + secret.Mask(now.settings)})
	}
	return found[:min(len(found), maxChanged)]
}

// upgraded tells that the server has another major version than when it was
// last seen.
func (w *Watcher) upgraded(version int) error {
	var old int
	if _, err := w.files.Get(versionKind, "seen", &old); err != nil {
		return err
	}
	if old != 0 && old/10000 != version/10000 {
		w.mu.Lock()
		w.seen[Upgrade]++
		w.mu.Unlock()
		now := time.Now()
		w.tell(Operation{Kind: Upgrade, Started: now, Statement: fmt.Sprintf("the server went from version %d to %d", old/10000, version/10000)}, now)
	}
	if old == version {
		return nil
	}
	return w.files.Put(versionKind, "seen", version)
}
