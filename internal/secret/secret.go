// Package secret keeps passwords that stand in the server's own texts (settings,
// statements, options) out of what the exporter keeps and shows.
package secret

import "regexp"

var (
	// option is a secret with its name, as connection strings and pg_hba.conf have it.
	option = regexp.MustCompile(`(?i)(password|passwd|secrets?)(\s*=\s*)('[^']*'?|"[^"]*"?|[^\s,;'")]+)`)
	// clause is one of a statement, whose text may end before the quote does.
	clause = regexp.MustCompile(`(?i)(password)(\s+)('[^']*'?)`)
	// address is the password of a URL, up to the last @ of the word.
	address = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@'"]*:)[^\s'"]*@`)
)

// Mask is a text that may be kept and shown.
func Mask(text string) string {
	text = address.ReplaceAllString(text, "$1***@")
	text = option.ReplaceAllString(text, "$1$2***")
	return clause.ReplaceAllString(text, "$1$2***")
}
