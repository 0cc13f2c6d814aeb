package activity

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/pg"
)

// Disk is the file system of a place to which the server writes, in bytes.
type Disk struct {
	// Place is data (the data directory), wal (pg_wal) or the name of a tablespace.
	Place      string
	Free, Size int64
}

// place is a directory to which the server writes.
type place struct{ name, directory string }

// placesInterval is how often it is asked where the server writes.
const placesInterval = time.Minute

// tablespacesSQL needs no privilege.
const tablespacesSQL = `SELECT spcname::text, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname NOT LIKE 'pg\_%' ORDER BY oid LIMIT 20`

// findPlaces finds where the server writes; nowhere when that is on another
// machine.
func (w *Watcher) findPlaces(ctx context.Context, conn *pg.Conn) error {
	if time.Since(w.placesRead) < placesInterval {
		return nil
	}
	w.placesRead, w.places = time.Now(), nil
	directory := datadir.Here(ctx, conn)
	if directory == "" {
		return nil
	}
	w.places = []place{{"data", directory}, {"wal", filepath.Join(directory, "pg_wal")}}
	rows, err := conn.Query(ctx, tablespacesSQL)
	if err != nil {
		return fmt.Errorf("listing tablespaces: %w", err)
	}
	var p place
	_, err = pgx.ForEachRow(rows, []any{&p.name, &p.directory}, func() error {
		w.places = append(w.places, p)
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing tablespaces: %w", err)
	}
	return nil
}

// measure looks how much is free where the server writes, also when the server
// does not answer: it may be because of that.
func (w *Watcher) measure() {
	var disks []Disk
	for _, p := range w.places {
		if free, size, ok := datadir.Space(p.directory); ok {
			disks = append(disks, Disk{Place: p.name, Free: free, Size: size})
		}
	}
	w.mu.Lock()
	w.disks = disks
	w.mu.Unlock()
}
