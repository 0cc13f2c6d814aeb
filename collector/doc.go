// Package collector holds what a scrape does.
//
// A [Collector] belongs to one source view of the server (or to one part of
// the exporter's own state) and has its own file; its name is the file's name
// and the value of the label collector. It is data: the metric families it
// emits, one SQL statement per server version, and a function that turns rows
// into samples. [Set.Scrape] sends the statements of all collectors in one
// round trip over one kept connection, each with its own Sync, so that one
// failing statement does not fail the others.
//
// A collector may read views of the server with the rights of pg_monitor. It
// may not write, wait for locks, start sessions, read user tables, or emit
// a number of series that grows with the number of tables. Whatever happens to
// the server, every collector reports success, duration and whether it
// applies.
package collector
