package check

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// denied takes apart what the server says when the role lacks a right. With
// another language of messages it matches nothing, and the advice is a general
// one.
var denied = regexp.MustCompile(`permission denied for (view|table|materialized view|foreign table|sequence|schema|function) (.+)$`)

// systemGrants are the rights on what belongs to the system, by the name that
// the server gives when they are missing.
var systemGrants = map[string]string{
	"pg_file_settings":          "GRANT SELECT ON pg_file_settings TO %[1]s; GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO %[1]s",
	"pg_show_all_file_settings": "GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO %[1]s",
	"pg_hba_file_rules":         "GRANT SELECT ON pg_hba_file_rules TO %[1]s; GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO %[1]s",
	"pg_ident_file_mappings":    "GRANT SELECT ON pg_ident_file_mappings TO %[1]s; GRANT EXECUTE ON FUNCTION pg_ident_file_mappings() TO %[1]s",
	"pg_read_binary_file":       "GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO %[1]s", //nolint:dupword // its arguments
	"pg_stat_file":              "GRANT EXECUTE ON FUNCTION pg_stat_file(text, boolean) TO %[1]s",
	"pg_ls_dir":                 "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO %[1]s",
	"pg_ls_waldir":              "GRANT pg_monitor TO %[1]s",
	"pg_ls_archive_statusdir":   "GRANT pg_monitor TO %[1]s",
	"pg_ls_tmpdir":              "GRANT pg_monitor TO %[1]s",
	"pg_ls_logdir":              "GRANT pg_monitor TO %[1]s",
}

// grant is the statement that gives the role what the server's message says
// that it lacks. object is what was looked at, which may name the schema.
func (s *session) grant(message, object string) string {
	role := quote(s.conn.Facts.User)
	match := denied.FindStringSubmatch(message)
	if match == nil {
		return s.grantData()
	}
	kind, name := match[1], match[2]
	if statement, known := systemGrants[name]; known {
		return fmt.Sprintf(statement, role)
	}
	switch kind {
	case "schema":
		return fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s in database %s", quote(name), role, quote(s.database))
	case "function":
		return fmt.Sprintf("GRANT EXECUTE on the function %s TO %s in database %s, or run docs/grants/grants.sql there", name, role, quote(s.database))
	}
	identifier := pgx.Identifier{name}
	if schema, ok := strings.CutSuffix(object, "."+name); ok && schema != "" {
		identifier = pgx.Identifier{schema, name}
	}
	on := ""
	if kind == "sequence" {
		on = "SEQUENCE "
	}
	return fmt.Sprintf("GRANT SELECT ON %s%s TO %s in database %s", on, identifier.Sanitize(), role, quote(s.database))
}

// grantData is the statement that lets the role read every table.
func (s *session) grantData() string {
	role := quote(s.conn.Facts.User)
	if s.conn.Facts.VersionNum >= 140000 {
		return "GRANT pg_read_all_data TO " + role
	}
	return fmt.Sprintf("GRANT SELECT on the tables and USAGE on their schemas TO %s in database %s: pgintegrity.data=on of docs/grants/grants.sql", role, quote(s.database))
}
