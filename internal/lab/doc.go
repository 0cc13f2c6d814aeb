// Package lab damages real servers in every way that it knows and looks what
// the checks find. It is a test of its own, which runs only when it is asked for,
// and writes one line of JSON for each.
//
//	PGTEST_LAB            areas of damage (heap, toast, index, index page, index file,
//	                      files, bytes, stale, catalog, catalog files, cluster) or full
//	PGTEST_LAB_ONLY       a pattern of the names of damages
//	PGTEST_LAB_SAMPLE     n: one of n
//	PGTEST_LAB_SEED       a number that says which of n
//	PGTEST_LAB_CHECKSUMS  true or false: only with data checksums on or off
//	PGTEST_LAB_SEEN       the program looks at the tables before the damage, too, and remembers
//	PGTEST_LAB_FAST       catalog: only the checks that read files and catalogues
//	PGTEST_LAB_PEERS      look what pg_amcheck (of the PATH) and pg_checksums find
//	PGTEST_LAB_BINARY     the program that is tried, instead of one built now
//	PGTEST_LAB_OUT        the file that the lines of JSON are appended to
//	PGTEST_LAB_TABLE      such a file, of which TestTable writes docs/checks/coverage.md
//	PGTEST_VERSIONS       the versions of the server
package lab
