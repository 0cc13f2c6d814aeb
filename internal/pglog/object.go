package pglog

import (
	"regexp"
	"strconv"
	"strings"
)

// Object is a relation as a message names it.
type Object struct {
	// Path is the path of a file within the data directory, for example
	// base/16384/16390.
	Path string
	// Tablespace, Database and Filenode are the numbers in Path; Tablespace is 0
	// for the default one, Database is 0 for shared catalogues.
	Tablespace, Database, Filenode uint32
	// OID is the relation's number, for example from the name of its TOAST table.
	OID uint32
	// Schema and Name are a quoted name of a relation in the message; most
	// messages leave the schema out.
	Schema, Name string
	// Block is the number of the page, from 0.
	Block *uint32
}

var (
	objectPath = regexp.MustCompile(`(?:base/(\d+)|(global)|pg_tblspc/(\d+)/PG_[^/"\s]+/(\d+))/(\d+)(?:_[a-z]+)?(?:\.\d+)?`)
	objectOID  = regexp.MustCompile(`\bpg_toast_(\d+)|\bOID (\d+)|pg_class entry for (\d+)|cache lookup failed for (?:relation|index) (\d+)`)
	objectName = regexp.MustCompile(`(?:relation|index|table|rel|sequence) "([^"]+)"`)
	// quotedName is a name in the quotes of any of PostgreSQL's languages.
	quotedName = regexp.MustCompile(`["»«„「]\s?([^"»«„“”「」/\s]+)\s?["»«“”」]`)
	// qualified is how VACUUM names the table in its context.
	qualified = regexp.MustCompile(`\\?["»«„「]\s?([^"»«„“”「」/\s.]+)\.([^"»«„“”「」/\s.\\]+)\\?\s?["»«“”」]`)
	// objectBlock knows the word for a block in the languages of PostgreSQL.
	objectBlock = regexp.MustCompile(`(?i)(?:\bblocks?|\bpage|\bbloque|\bbloc|\bblocco|\bbloco|\bbloku|блок[а-я]*|блоці|ブロック|块|區塊|ბლოკ[ა-ჰ]*)[ -]?[\sა-ჰ(]*(\d+)|(\d+)\s?(?:번째 |번 )?(?:블록|블럭|ブロック)`)
)

// objectOf finds what a message is about, in its text and else in its
// context.
func objectOf(text, context string) Object {
	var o Object
	if match := objectPath.FindStringSubmatch(text); match != nil {
		o.Path = match[0]
		o.Database = number(match[1]) | number(match[4])
		o.Tablespace = number(match[3])
		o.Filenode = number(match[5])
	}
	if match := objectOID.FindStringSubmatch(text); match != nil {
		o.OID = number(strings.Join(match[1:], ""))
	}
	if match := objectName.FindStringSubmatch(text); match != nil && !strings.Contains(match[1], "/") {
		o.Name = match[1]
	} else if match := quotedName.FindStringSubmatch(text); match != nil {
		o.Name = match[1]
	}
	o.Block = blockOf(strings.Replace(text, o.Path, "", 1))
	if o.Path == "" && o.OID == 0 && o.Name == "" {
		if match := qualified.FindStringSubmatch(context); match != nil {
			o.Schema, o.Name = match[1], match[2]
			o.Block = blockOf(context)
		}
	}
	return o
}

func blockOf(text string) *uint32 {
	match := objectBlock.FindStringSubmatch(text)
	if match == nil {
		return nil
	}
	n, err := strconv.ParseUint(match[1]+match[2], 10, 32)
	if err != nil {
		return nil
	}
	block := uint32(n)
	return &block
}

func number(digits string) uint32 {
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}
