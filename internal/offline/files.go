package offline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/page"
)

// Oids of catalogues.
const (
	pgDatabase   = 1262
	pgTablespace = 1213
	pgClass      = 1259
	pgNamespace  = 2615
)

// relation is what pg_class says of one relation.
type relation struct {
	oid, file, tablespace, namespace uint32
	name, schema, database           string
	kind, persistence                byte
	method                           uint32
	pages                            int32
	frozen, minMulti                 uint32
	directory                        string
}

// names are what the catalogues on disk say of the files.
type names struct {
	// databases are the names of the databases by oid.
	databases map[uint32]string
	// files are the relations by the path of their first file.
	files map[string]relation
}

// methodKinds are the kinds of pages by the oid of the access method.
var methodKinds = map[uint32]page.Kind{
	2: page.Heap, 403: page.Btree, 405: page.Hash, 783: page.Gist, 2742: page.Gin, 4000: page.Spgist, 3580: page.Brin,
}

// files reads pg_database, pg_tablespace and pg_class from disk and looks for
// the files that they name.
func (r *run) files(ctx context.Context) error {
	r.names = &names{databases: make(map[uint32]string), files: make(map[string]relation)}
	if r.major == 0 || !r.known {
		r.skipped = "without PG_VERSION and a sane control file the catalogues cannot be read"
		return nil
	}
	shared, err := r.mapOf("global", true)
	if err != nil {
		return err
	}
	if err := r.readDatabases(fmt.Sprintf("global/%d", shared[pgDatabase])); err != nil {
		r.problem("pg_database", err)
	}
	if err := r.readTablespaces(fmt.Sprintf("global/%d", shared[pgTablespace])); err != nil {
		r.problem("pg_tablespace", err)
	}
	for _, directory := range r.databases() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := r.readClass(directory, shared); err != nil {
			r.problem(directory, err)
		}
	}
	if r.running {
		return nil
	}
	for first, rel := range r.names.files {
		r.result.Objects++
		info, err := os.Stat(r.path(first))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			r.foundInFile(rel, first, nil, fmt.Sprintf("the file %s is missing", first), "missing")
		case err != nil:
			r.problem(first, err)
		case !info.Mode().IsRegular():
			r.foundInFile(rel, first, nil, first+" is no file", "missing")
		case info.Size() == 0 && rel.pages > 0 && rel.kind != 'S' && r.control.State.Clean() && rel.method != 2:
			r.foundInFile(rel, first, nil, fmt.Sprintf("the file %s is empty, but no index is", first), "empty")
		}
	}
	return nil
}

// mapOf reads a relation map; a damaged one was told by the check cluster.
func (r *run) mapOf(directory string, shared bool) (cluster.RelationMap, error) {
	content, err := r.readFile(directory+"/"+cluster.RelationMapFile, 1<<16)
	if err != nil {
		return nil, err
	}
	return cluster.DecodeRelationMap(content, r.major, shared)
}

// readDatabases looks for the directory of each database.
func (r *run) readDatabases(file string) error {
	spaceAt := 92 // of dattablespace
	if r.major < 15 {
		spaceAt = 224
	}
	return r.rows(file, func(data []byte) {
		if len(data) < spaceAt+4 {
			return
		}
		oid, name := binary.LittleEndian.Uint32(data), text(data[4:])
		r.names.databases[oid] = name
		directory := r.space(binary.LittleEndian.Uint32(data[spaceAt:]), oid)
		if r.exists(directory) {
			return
		}
		f := critical(directory, fmt.Sprintf("the directory %s of the database %s is missing", directory, name), "The database is gone.", copyFirst+restore)
		f.Database = name
		r.found(never, f, "directory")
	})
}

// space is the directory of a database in a tablespace.
func (r *run) space(tablespace, database uint32) string {
	const pgDefault, pgGlobal = 1663, 1664
	switch tablespace {
	case pgGlobal:
		return "global"
	case pgDefault, 0:
		return fmt.Sprintf("base/%d", database)
	}
	return fmt.Sprintf("pg_tblspc/%d/%s/%d", tablespace, r.tablespaceVersion(), database)
}

// readTablespaces looks for the link of each tablespace.
func (r *run) readTablespaces(file string) error {
	return r.rows(file, func(data []byte) {
		if len(data) < 68 {
			return
		}
		oid, name := binary.LittleEndian.Uint32(data), text(data[4:])
		link := fmt.Sprintf("pg_tblspc/%d", oid)
		if oid < 16384 {
			return
		}
		if _, err := os.Lstat(r.path(link)); !errors.Is(err, fs.ErrNotExist) {
			return // where it leads the check cluster looks
		}
		if mapping, err := r.readFile("tablespace_map", 1<<20); err == nil && strings.Contains("\n"+string(mapping), fmt.Sprintf("\n%d ", oid)) {
			return
		}
		r.found(never, critical(link, fmt.Sprintf("the tablespace %s has no link %s", name, link), "Every table and index in this tablespace is gone for the server.",
			"Do not start the server. "+copyFirst+"Find the directory of the tablespace (it has a directory "+r.tablespaceVersion()+") and make the link again."), "link")
	})
}

// readClass reads the pg_class of a database.
func (r *run) readClass(directory string, shared cluster.RelationMap) error {
	local, err := r.mapOf(directory, false)
	if err != nil {
		return err
	}
	oid, err := strconv.ParseUint(path.Base(directory), 10, 32)
	if err != nil {
		return err
	}
	database := r.names.databases[uint32(oid)]
	schemas := make(map[uint32]string)
	var list []relation
	kindAt := 112 // of relhasindex
	if r.major >= 18 {
		kindAt = 116 // relallfrozen came
	}
	err = r.rows(fmt.Sprintf("%s/%d", directory, local[pgClass]), func(data []byte) {
		if len(data) < kindAt+28 {
			return
		}
		u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(data[at:]) }
		rel := relation{
			oid: u32(0), name: text(data[4:]), namespace: u32(68), method: u32(84), file: u32(88), tablespace: u32(92),
			pages: int32(u32(96)), persistence: data[kindAt+2], kind: data[kindAt+3], database: database,
			frozen: u32(kindAt + 20), minMulti: u32(kindAt + 24),
		}
		if rel.file == 0 && local[rel.oid] != 0 {
			rel.file = local[rel.oid]
		}
		if rel.file == 0 && shared[rel.oid] != 0 {
			rel.file, rel.tablespace = shared[rel.oid], 1664
		}
		rel.directory = r.space(rel.tablespace, uint32(oid))
		if rel.tablespace == 0 {
			rel.directory = directory
		}
		list = append(list, rel)
	})
	if err != nil {
		return err
	}
	for _, rel := range list {
		if rel.oid == pgNamespace {
			err = r.rows(fmt.Sprintf("%s/%d", rel.directory, rel.file), func(data []byte) {
				if len(data) >= 68 {
					schemas[binary.LittleEndian.Uint32(data)] = text(data[4:])
				}
			})
		}
	}
	for _, rel := range list {
		rel.schema = schemas[rel.namespace]
		if rel.file == 0 || !strings.ContainsRune("rmtiS", rune(rel.kind)) {
			continue
		}
		r.names.files[fmt.Sprintf("%s/%d", rel.directory, rel.file)] = rel
	}
	return err
}

// foundInFile reports damage to a file of a relation; block nil is all of it.
func (r *run) foundInFile(rel relation, file string, block *uint32, message, kind string) {
	f := check.Finding{
		Class: check.ClassCorruption, Severity: check.SeverityCritical, Database: rel.database, Schema: rel.schema, Relation: rel.name, Block: block,
		Message: message,
		Impact:  "Statements that read it fail, miss rows or give wrong data. The server starts all the same.",
		Action:  copyFirst + "Restore this relation from a base backup and the WAL archive into another directory, or promote a standby, and compare.",
	}
	if rel.name == "" {
		f.Relation = file
	}
	if rel.kind == 'i' {
		f.Impact = "Statements that use this index fail, miss rows or give wrong data; its table may be whole. The server starts all the same."
		f.Action = copyFirst + "An index can be made again from its table (REINDEX) when the server runs; see that the table is sane first."
	}
	if rel.persistence == 'u' || rel.persistence == 't' {
		return // a crash empties unlogged tables, and temporary ones are gone
	}
	r.found(never, f, kind)
}
