// Package conf reads the configuration files of PostgreSQL 13 to 18 as the
// server does at its start: postgresql.conf with its includes, what values its
// parameters may have, pg_hba.conf and pg_ident.conf. It tells what would stop
// the next start before the start does.
package conf
