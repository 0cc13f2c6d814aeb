package check

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/pg"
)

// verdict says what an error of the server means for the relation that was
// being read.
type verdict int

const (
	// inconclusive: the relation could not be looked at.
	inconclusive verdict = iota
	// damaged: the error is evidence of damage.
	damaged
	// suspicious: an internal error that a healthy relation never raises, but
	// concurrent DDL may; it counts when it comes again.
	suspicious
)

// dataFile is a file of the data directory as messages quote it.
var dataFile = regexp.MustCompile(`(?:base/\d+|global|pg_tblspc/\d+/PG_[^/"\s]+/\d+)/\d+|pg_xact/|pg_multixact/|pg_subtrans/`)

// judge reads the meaning of an error out of its SQLSTATE. A missing grant on
// a table and a data file that may not be opened are both 42501; a data file
// that is gone and an extension's library that is gone are both 58P01; a relation
// of another kind and a directory in the place of a data file are both 42809.
func judge(err error) verdict {
	var pgError *pgconn.PgError
	if !errors.As(err, &pgError) {
		return inconclusive
	}
	switch {
	case pgError.Code == "XX001", pgError.Code == "XX002":
		return damaged
	case pgError.Code == "58P01", pgError.Code == "58030", pgError.Code == "42501", pgError.Code == "42809":
		if dataFile.MatchString(pgError.Message) {
			return damaged
		}
	case pgError.Code == "XX000":
		return suspicious
	case strings.HasPrefix(pgError.Code, "22"), pgError.Code == "54000":
		return suspicious // a value that cannot be decoded
	case pgError.Code == "0A000" && strings.Contains(pgError.Message, "lz4"):
		return suspicious // a value says that it is compressed in a way that this server never could
	}
	return inconclusive
}

// gone says that the relation was dropped or changed its kind meanwhile.
func gone(err error) bool {
	var pgError *pgconn.PgError
	if !errors.As(err, &pgError) {
		return false
	}
	return pgError.Code == "42P01" || pgError.Code == "42809" && judge(err) != damaged ||
		(pgError.Code == "XX000" && strings.HasPrefix(pgError.Message, "could not open relation with OID"))
}

// text is the server's message with its detail.
func text(err error) string {
	var pgError *pgconn.PgError
	if !errors.As(err, &pgError) {
		return err.Error()
	}
	if pgError.Detail != "" {
		return pgError.Message + ": " + pgError.Detail
	}
	return pgError.Message
}

// sqlstate is the SQLSTATE of an error of the server.
func sqlstate(err error) string { return pg.SQLState(err) }

var (
	blockWord = regexp.MustCompile(`\b(?:block|blocks|Block|page|tid=\()[ =]*(\d+)`)
	numbers   = regexp.MustCompile(`\d+(?:/[0-9A-F]+)?`)
)

// blockIn is the first block number that a message names.
func blockIn(message string) *uint32 {
	match := blockWord.FindStringSubmatch(message)
	if match == nil {
		return nil
	}
	n, err := strconv.ParseUint(match[1], 10, 32)
	if err != nil {
		return nil
	}
	block := uint32(n)
	return &block
}

// KindOf is a message without its numbers, which change from run to run, as the
// kind of a finding.
func KindOf(message string) string { return kindOf(message) }

// kindOf is a message without its numbers, which change from run to run.
func kindOf(message string) string { return numbers.ReplaceAllString(message, "N") }
