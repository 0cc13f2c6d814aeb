// Package check holds the integrity checks.
//
// One check is one file, one test with real damage, one page under docs/checks
// and one name. A check looks at one database through one read-only session,
// reports what it found as a [Finding] and what it could not look at as a
// problem; it never decides by itself that everything is well. [All] is the
// explicit list. [Run] runs one check in one database, [Sweep] runs a set of
// them over a server.
package check
