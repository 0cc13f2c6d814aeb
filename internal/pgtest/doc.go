// Package pgtest starts real PostgreSQL servers of every supported version for
// tests and for the demo, and damages them for real.
//
// [Start] gives a test a running server that is gone when the test ends;
// [Launch] is the same without a test. Data directories are copies of a
// template that initdb made once for each version and kind, so a server
// starts in about a second. PostgreSQL refuses to run as root: a process that
// is root starts it as an unprivileged user.
package pgtest
