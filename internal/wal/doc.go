// Package wal reads the write-ahead log of PostgreSQL 13 to 18 as it lies in
// pg_wal or in an archive: page headers, records and their CRC. It looks at
// files only and takes nothing from a server.
//
// [VerifySegment] looks at one segment alone, as an archive holds it.
// [Verify] follows the records over several segments, as recovery does.
// [Gaps] finds missing segments in a list of file names.
package wal
