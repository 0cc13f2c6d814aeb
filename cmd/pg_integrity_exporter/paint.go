package main

import (
	"io"
	"regexp"
)

// marks are the words at the beginning of a line that say how it stands, by the
// colour that they have on a terminal.
var marks = map[string]*regexp.Regexp{
	"31": regexp.MustCompile(`(?m)^( {0,2}|\S+: )(CRITICAL|PROBLEM|FAILED|REFUSED|failed|not rolled back|interrupted)\b`),
	"33": regexp.MustCompile(`(?m)^ {0,2}(WARNING|warning|unknown|refused|rolled back)\b`),
	"32": regexp.MustCompile(`(?m)^( {0,2}|\S+: )(PROVED|ok|done)\b`),
}

// painted is the output for people, where whole lines are written: with colours
// on a terminal.
func (g *globals) painted() io.Writer {
	if !colour(g.stdout, g.environment) {
		return g.stdout
	}
	return painter{g.stdout}
}

type painter struct{ to io.Writer }

func (p painter) Write(text []byte) (int, error) {
	coloured := text
	for code, words := range marks {
		coloured = words.ReplaceAll(coloured, []byte("\x1b["+code+"m$0\x1b[0m"))
	}
	_, err := p.to.Write(coloured)
	return len(text), err
}
