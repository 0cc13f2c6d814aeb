package state

import (
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
)

const (
	// relationsKind is the kind of the documents that say when the relations of a
	// database were last looked at, one document for each database.
	relationsKind = "relations"
	// relationsKept bounds how many relations of one database are remembered.
	relationsKept = 2000
)

// seenRelation is one relation in the document.
type seenRelation struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	// Seen is when each check has last looked at all of it, in seconds since 1970.
	Seen map[string]int64 `json:"seen"`
}

// RelationsSeen says when each check has last looked at all of a relation. Of a
// database with very many relations some are not known.
func RelationsSeen(files *Files, database string) (map[check.RelationName]map[string]time.Time, error) {
	var list []seenRelation
	if _, err := files.Get(relationsKind, database, &list); err != nil {
		return nil, err
	}
	seen := make(map[check.RelationName]map[string]time.Time, len(list))
	for _, r := range list {
		times := make(map[string]time.Time, len(r.Seen))
		for name, seconds := range r.Seen {
			times[name] = time.Unix(seconds, 0)
		}
		seen[check.RelationName{Schema: r.Schema, Name: r.Name}] = times
	}
	return seen, nil
}

// seeRelations notes which relations a check has looked at. A look at
// everything that does not meet a relation again forgets it: it was dropped, or
// is none of the check's.
func seeRelations(files *Files, result check.Result) error {
	if result.Database == "" || len(result.Verified) == 0 {
		return nil
	}
	var list []seenRelation
	if _, err := files.Get(relationsKind, result.Database, &list); err != nil {
		list = nil // it is only a memory of when: the next looks fill it again
	}
	index := make(map[check.RelationName]int, len(list))
	for i, r := range list {
		if result.Whole {
			delete(r.Seen, result.Check)
		}
		index[check.RelationName{Schema: r.Schema, Name: r.Name}] = i
	}
	for _, name := range result.Verified {
		i, known := index[name]
		if !known {
			if len(list) >= relationsKept {
				continue
			}
			i = len(list)
			index[name], list = i, append(list, seenRelation{Schema: name.Schema, Name: name.Name, Seen: make(map[string]int64)})
		}
		list[i].Seen[result.Check] = result.Finished.Unix()
	}
	list = slices.DeleteFunc(list, func(r seenRelation) bool { return len(r.Seen) == 0 })
	slices.SortFunc(list, func(a, b seenRelation) int {
		return strings.Compare(a.Schema+"\x00"+a.Name, b.Schema+"\x00"+b.Name)
	})
	return files.Put(relationsKind, result.Database, list)
}
