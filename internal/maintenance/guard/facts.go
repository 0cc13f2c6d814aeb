package guard

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// querier is a session or a transaction in one.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Fact is one thing that the schema or the settings promise.
type Fact struct {
	// Kind is one of the kinds of factQueries.
	Kind string `json:"kind"`
	// Schema and Relation are what it belongs to, Name its own name.
	Schema   string `json:"schema,omitempty"`
	Relation string `json:"relation,omitempty"`
	Name     string `json:"name,omitempty"`
	// State is what may be weakened, Definition what makes it again.
	State      string `json:"state,omitempty"`
	Definition string `json:"definition,omitempty"`
}

// key is the identity of a fact.
func (f Fact) key() string {
	return strings.Join([]string{f.Kind, f.Schema, f.Relation, f.Name}, "\x00")
}

// object is the fact for people.
func (f Fact) object() string {
	parts := slices.DeleteFunc([]string{f.Schema, f.Relation, f.Name}, func(s string) bool { return s == "" })
	return strings.Join(parts, ".")
}

// relation is the relation that it belongs to, as SQL has it.
func (f Fact) relation() string { return pgx.Identifier{f.Schema, f.Relation}.Sanitize() }

// userSchemas leaves out what belongs to the server and to the guard itself.
const userSchemas = `n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '` + guardSchema + `')`

// factQueries read the facts: each gives kind, schema, relation, name, state
// and definition. ACCESS SHARE on catalogues, no privilege.
var factQueries = []string{
	// What kinds of relations there are.
	`SELECT 'relation', n.nspname, c.relname, '', c.relkind::text, c.oid::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f') AND ` + userSchemas,
	`SELECT x.kind, n.nspname, c.relname, '', x.state, ''
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
		LATERAL (VALUES ('persistence', c.relpersistence::text), ('row_security', c.relrowsecurity::text), ('force_row_security', c.relforcerowsecurity::text),
			('replica_identity', c.relreplident::text),
			('autovacuum', coalesce((SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_enabled'), 'true'))) x(kind, state)
		WHERE c.relkind IN ('r', 'p', 'm') AND ` + userSchemas,
	`SELECT 'column', n.nspname, c.relname, a.attname, a.attnotnull::text, format_type(a.atttypid, a.atttypmod)
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped AND ` + userSchemas,
	`SELECT 'default', n.nspname, c.relname, a.attname, a.attidentity::text || a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND (a.atthasdef OR a.attidentity <> '') AND ` + userSchemas,
	`SELECT 'constraint', n.nspname, c.relname, k.conname, k.contype::text || CASE WHEN k.convalidated THEN '' ELSE ' NOT VALID' END, pg_get_constraintdef(k.oid)
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND ` + userSchemas,
	`SELECT 'index', n.nspname, c.relname, i.relname, CASE WHEN x.indisvalid AND x.indisready AND x.indislive THEN 'valid' ELSE 'invalid' END
			|| CASE WHEN x.indisunique THEN ' unique' ELSE '' END, pg_get_indexdef(x.indexrelid)
		FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE ` + userSchemas,
	`SELECT CASE WHEN t.tgisinternal THEN 'internal_trigger' ELSE 'trigger' END, n.nspname, c.relname, t.tgname, t.tgenabled::text, pg_get_triggerdef(t.oid)
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ` + userSchemas,
	`SELECT 'rule', n.nspname, c.relname, r.rulename, r.ev_enabled::text, pg_get_ruledef(r.oid)
		FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND ` + userSchemas,
	`SELECT 'policy', p.schemaname, p.tablename, p.policyname, p.permissive || ' ' || p.cmd || ' ' || array_to_string(p.roles, ','), coalesce(p.qual, '') || ' / ' || coalesce(p.with_check, '')
		FROM pg_policies p`,
	`SELECT 'event_trigger', '', '', evtname, evtenabled::text, evtfoid::regprocedure::text FROM pg_event_trigger WHERE evtname NOT LIKE '` + guardSchema + `%'`,
	`SELECT 'publication', schemaname, tablename, pubname, 'published', '' FROM pg_publication_tables`,
	`SELECT 'sequence', schemaname, sequencename, '', coalesce(last_value, start_value - 1)::text, increment_by::text FROM pg_sequences`,
	`SELECT 'partition', n.nspname, c.relname, i.inhparent::regclass::text, 'attached', pg_get_expr(c.relpartbound, c.oid)
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relispartition AND ` + userSchemas,
	`SELECT 'role_setting', coalesce(d.datname, ''), coalesce(r.rolname, ''), split_part(s, '=', 1), substr(s, strpos(s, '=') + 1), ''
		FROM pg_db_role_setting x CROSS JOIN unnest(x.setconfig) s LEFT JOIN pg_database d ON d.oid = x.setdatabase LEFT JOIN pg_roles r ON r.oid = x.setrole`,
	`SELECT 'grant', n.nspname, c.relname, coalesce(g.rolname, 'PUBLIC') || ' ' || a.privilege_type, 'granted', ''
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND a.grantee <> c.relowner AND ` + userSchemas,
	`SELECT 'extension', '', '', extname, extversion, '' FROM pg_extension`,
}

// systemSettings reads what ALTER SYSTEM wrote: the file itself when the role
// may, else what the server has read from it.
const (
	systemSettings      = `SELECT 'system_setting', '', '', name, setting, '' FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'`
	systemSettingsInUse = `SELECT 'system_setting', '', '', name, setting, '' FROM pg_settings WHERE sourcefile LIKE '%postgresql.auto.conf'`
)

// readFacts reads every fact that the session sees.
func readFacts(ctx context.Context, q querier, facts pg.Facts) ([]Fact, error) {
	queries := slices.Clone(factQueries)
	if facts.Superuser {
		queries = append(queries, systemSettings)
	} else {
		queries = append(queries, systemSettingsInUse)
	}
	var all []Fact
	for _, query := range queries {
		rows, err := q.Query(ctx, query)
		if err != nil {
			return nil, fmt.Errorf("reading the schema: %w", err)
		}
		found, err := scanFacts(rows)
		if err != nil {
			return nil, fmt.Errorf("reading the schema: %w", err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func scanFacts(rows pgx.Rows) ([]Fact, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Fact, error) {
		var f Fact
		var definition *string
		err := row.Scan(&f.Kind, &f.Schema, &f.Relation, &f.Name, &f.State, &definition)
		if definition != nil {
			f.Definition = *definition
		}
		return f, err
	})
}

// Weakening is something that promised more before than afterwards.
type Weakening struct {
	// Before is what was, After what is; nil is gone.
	Before Fact
	After  *Fact
	// Kind is the allowance that would permit it.
	Kind string
	// Message says it in words.
	Message string
}

// intent is what a script says that it wants to do.
type intent struct {
	// named are the relations that it names.
	named map[string]bool
	// settings says that it does nothing but change settings, grants that it
	// changes grants.
	settings, grants bool
}

// compareFacts lists what is weaker afterwards. What belonged to a relation
// that is gone went with it.
func compareFacts(before, after []Fact, meant intent) []Weakening {
	now := make(map[string]*Fact, len(after))
	relations := make(map[string]bool)
	oids := make(map[string]bool)
	for i, f := range after {
		now[f.key()] = &after[i]
		if f.Kind == "relation" {
			relations[f.Schema+"\x00"+f.Relation] = true
			oids[f.Definition] = true
		}
	}
	keys := make(map[string]bool)
	for _, f := range before {
		if f.Kind == "constraint" {
			keys[Fact{Kind: "index", Schema: f.Schema, Relation: f.Relation, Name: f.Name}.key()] = true
		}
	}
	var weaker []Weakening
	for _, f := range before {
		if keys[f.key()] && now[f.key()] == nil {
			continue // told as a constraint
		}
		current := now[f.key()]
		if f.Kind != "relation" && f.Relation != "" && f.Kind != "role_setting" && !relations[f.Schema+"\x00"+f.Relation] {
			continue
		}
		if f.Kind == "relation" && current == nil && oids[f.Definition] {
			continue // renamed
		}
		if w, ok := weakened(f, current, after, meant); ok {
			weaker = append(weaker, w)
		}
	}
	known := make(map[string]bool, len(before))
	for _, f := range before {
		known[f.key()] = true
	}
	for i, f := range after {
		if !known[f.key()] {
			if w, ok := weakNew(f, &after[i], meant); ok {
				weaker = append(weaker, w)
			}
		}
	}
	return weaker
}

// weakNew judges what was not there before.
func weakNew(f Fact, now *Fact, meant intent) (Weakening, bool) {
	w := Weakening{Before: Fact{Kind: f.Kind, Schema: f.Schema, Relation: f.Relation, Name: f.Name}, After: now}
	switch {
	case f.Kind == "index" && strings.HasPrefix(f.State, "invalid"):
		w.Kind, w.Message = "constraint", "is a new index that is not valid"
	case f.Kind == "constraint" && strings.HasSuffix(f.State, "NOT VALID"):
		w.Kind, w.Message = "constraint", "is a new constraint that is not validated"
	case (f.Kind == "role_setting" || f.Kind == "system_setting") && (!meant.settings || dangerous(f)):
		w.Kind, w.Message = "setting", fmt.Sprintf("is now set to %q", f.State)
	default:
		return w, false
	}
	return w, true
}

// dangerousSettings can destroy data with the value given.
var dangerousSettings = map[string]string{
	"fsync": "off", "full_page_writes": "off", "zero_damaged_pages": "on", "ignore_checksum_failure": "on",
	"ignore_invalid_pages": "on", "ignore_system_indexes": "on", "autovacuum": "off", "track_counts": "off", "session_replication_role": "replica",
}

// dangerous says that a setting can destroy data.
func dangerous(f Fact) bool {
	value := map[string]string{"false": "off", "0": "off", "no": "off", "true": "on", "1": "on", "yes": "on"}
	state := strings.ToLower(f.State)
	if word, ok := value[state]; ok {
		state = word
	}
	return dangerousSettings[f.Name] == state
}

// weakened judges one fact.
func weakened(f Fact, now *Fact, after []Fact, meant intent) (Weakening, bool) { //nolint:gocognit,gocyclo // one case for each kind
	w := Weakening{Before: f, After: now}
	changed := now == nil || now.State != f.State
	says := func(kind, message string) (Weakening, bool) {
		w.Kind, w.Message = kind, message
		return w, true
	}
	switch f.Kind {
	case "relation":
		if now == nil && f.State != "S" && !meant.named[f.Schema+"."+f.Relation] {
			return says("cascade", "was dropped without being named")
		}
	case "persistence":
		if changed && f.State == "p" {
			return says("storage", "is UNLOGGED now: a crash empties it")
		}
	case "autovacuum":
		if changed && f.State == "true" && now.State != "true" {
			return says("storage", "has autovacuum switched off now")
		}
	case "replica_identity":
		if changed && now.State == "n" {
			return says("storage", "has no replica identity now")
		}
	case "publication":
		if now == nil {
			return says("storage", "is not in the publication any more")
		}
	case "row_security", "force_row_security":
		if changed && f.State == "true" {
			return says("security", "has row level security switched off now")
		}
	case "policy":
		if now == nil {
			return says("security", "is gone")
		}
	case "grant":
		if now == nil && !meant.grants {
			return says("security", "is not granted any more")
		}
	case "column":
		if now != nil && f.State == "true" && now.State == "false" {
			return says("constraint", "is not NOT NULL any more")
		}
	case "constraint":
		return constraintWeakened(w, f, now, after)
	case "index":
		switch {
		case now != nil && strings.HasPrefix(f.State, "valid") && strings.HasPrefix(now.State, "invalid"):
			return says("constraint", "is not valid any more")
		case now == nil && strings.Contains(f.State, "unique") && !replacedIndex(f, after):
			return says("constraint", "was a unique index and is gone")
		}
	case "trigger", "rule":
		if now == nil {
			return says("trigger", "is gone")
		}
		if changed && weakerTrigger(f.State, now.State) {
			return says("trigger", "is disabled or fires for fewer sessions now")
		}
	case "event_trigger":
		if now == nil {
			return says("trigger", "is gone")
		}
		if changed && weakerTrigger(f.State, now.State) {
			return says("trigger", "is disabled or fires for fewer sessions now")
		}
	case "internal_trigger":
		if now != nil && changed && weakerTrigger(f.State, now.State) {
			return says("trigger", "enforces a foreign key and is disabled now")
		}
	case "sequence":
		if now != nil && sequenceFell(f, *now) {
			return says("sequence", fmt.Sprintf("stood at %s and stands at %s now", f.State, now.State))
		}
	case "role_setting", "system_setting":
		if changed && (!meant.settings || now != nil && dangerous(*now)) {
			if now == nil {
				return says("setting", fmt.Sprintf("was set to %q and is not set any more", f.State))
			}
			return says("setting", fmt.Sprintf("was %q and is %q now", f.State, now.State))
		}
	}
	return w, false
}

// weakerTrigger says that a trigger fires less: O is origin, A always, R only
// replica, D disabled.
func weakerTrigger(before, now string) bool {
	rank := map[string]int{"D": 0, "R": 1, "O": 2, "A": 3}
	return rank[now] < rank[before]
}

func sequenceFell(before, now Fact) bool {
	var was, is, step int64
	if _, err := fmt.Sscan(before.State, &was); err != nil {
		return false
	}
	if _, err := fmt.Sscan(now.State, &is); err != nil {
		return false
	}
	if _, err := fmt.Sscan(before.Definition, &step); err != nil {
		return false
	}
	return step > 0 && is < was || step < 0 && is > was
}

// constraintWeakened judges a constraint; one that was replaced by another of
// its type on the same columns is as good.
func constraintWeakened(w Weakening, f Fact, now *Fact, after []Fact) (Weakening, bool) {
	w.Kind = "constraint"
	if now != nil {
		w.Message = "is not validated any more"
		return w, !strings.HasSuffix(f.State, "NOT VALID") && strings.HasSuffix(now.State, "NOT VALID")
	}
	w.Message = "is gone"
	for _, other := range after {
		if other.Kind == "constraint" && other.Schema == f.Schema && other.Relation == f.Relation && other.State == f.State &&
			(other.Definition == f.Definition || f.State == "c" && mentionsAny(other.Definition, f.Definition)) {
			return w, false
		}
	}
	if f.State == "p" || f.State == "u" {
		return w, !replacedKey(f, after)
	}
	return w, columnsExist(f, after)
}

// mentionsAny says that a new CHECK names a word of the old one, so that it was
// put in its place.
func mentionsAny(definition, old string) bool {
	words := strings.FieldsFunc(definition, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	for _, word := range words {
		if len(word) > 1 && strings.Contains(old, word) && word != "or" && word != "and" && word != "text" && word != "numeric" {
			return true
		}
	}
	return false
}

// replacedKey says that another key has the same columns.
func replacedKey(f Fact, after []Fact) bool {
	_, columns, _ := strings.Cut(f.Definition, " (")
	for _, other := range after {
		_, others, _ := strings.Cut(other.Definition, " (")
		if other.Kind == "constraint" && other.Schema == f.Schema && other.Relation == f.Relation && others == columns && (other.State == "p" || other.State == "u") {
			return true
		}
	}
	return !columnsExist(f, after)
}

// columnsExist says that the table still has a column that the constraint
// names; one whose columns were dropped went with them.
func columnsExist(f Fact, after []Fact) bool {
	for _, other := range after {
		if other.Kind == "column" && other.Schema == f.Schema && other.Relation == f.Relation && strings.Contains(f.Definition, other.Name) {
			return true
		}
	}
	return false
}

// replacedIndex says that another index of the table has the same definition
// but for its name.
func replacedIndex(f Fact, after []Fact) bool {
	_, shape, _ := strings.Cut(f.Definition, " ON ")
	exists := false
	for _, other := range after {
		if other.Schema != f.Schema || other.Relation != f.Relation {
			continue
		}
		_, others, _ := strings.Cut(other.Definition, " ON ")
		if other.Kind == "index" && others == shape && strings.HasPrefix(other.State, "valid unique") {
			return true
		}
		exists = exists || other.Kind == "column" && strings.Contains(shape, other.Name)
	}
	return !exists
}
