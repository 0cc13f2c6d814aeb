package pglog

import (
	"regexp"
	"slices"
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
	objectOID  = regexp.MustCompile(`\bpg_toast_(\d+)|\b(?:OID|relid) (\d+)|pg_class entry for (\d+)|cache lookup failed for (?:relation|index) (\d+)`)
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
	o.file(text)
	if match := objectOID.FindStringSubmatch(text); match != nil {
		o.OID = number(strings.Join(match[1:], ""))
	}
	if match := objectName.FindStringSubmatch(text); match != nil && !strings.Contains(match[1], "/") {
		o.Name = match[1]
	} else if match := quotedName.FindStringSubmatch(text); match != nil {
		o.Name = match[1]
	}
	o.Block = blockOf(strings.Replace(text, o.Path, "", 1))
	if o.nameless() {
		if match := qualified.FindStringSubmatch(context); match != nil {
			o.Schema, o.Name = match[1], match[2]
			o.Block = blockOf(context)
		} else if o.file(context) {
			o.Block = blockOf(strings.Replace(context, o.Path, "", 1)) // a page that is being written
		}
	}
	return o
}

// file finds the path of a file of a relation.
func (o *Object) file(text string) bool {
	match := objectPath.FindStringSubmatch(text)
	if match == nil {
		return false
	}
	o.Path = match[0]
	o.Database = number(match[1]) | number(match[4])
	o.Tablespace = number(match[3])
	o.Filenode = number(match[5])
	return true
}

// nameless says that nothing tells which relation it is.
func (o *Object) nameless() bool {
	return o.Path == "" && o.OID == 0 && o.Name == ""
}

// maxMentioned bounds the names that are taken from a statement.
const maxMentioned = 100

// literal is what a name cannot be in, identifier is a name in a statement.
var (
	literal    = regexp.MustCompile(`'(?:[^']|'')*'`)
	identifier = regexp.MustCompile(`"[^"]+"|[\pL_][\pL\pN_$]*`)
)

// mentioned lists the names in a statement, each once. Keywords are among them:
// only the server knows what is a table.
func mentioned(statement string) []string {
	var names []string
	for _, name := range identifier.FindAllString(literal.ReplaceAllString(statement, " "), -1) {
		if unquoted := strings.Trim(name, `"`); unquoted != name {
			name = unquoted
		} else {
			name = strings.ToLower(name)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		if len(names) == maxMentioned {
			break
		}
	}
	return names
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
