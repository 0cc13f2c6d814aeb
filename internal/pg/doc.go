// Package pg connects to the monitored PostgreSQL server and learns what it
// can do.
//
// It holds the only ways to the server: a [Target] says where it is, a [Lane]
// is one kept connection that never has more than one connection attempt
// under way, and [Facts] are what a session learnt about the server when it
// connected. Every session is read only, has a short lock_timeout and a
// statement_timeout, and names itself in pg_stat_activity.application_name.
package pg
