package check

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// WriteJSON writes the contract's JSON document.
func (d *Document) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(d)
}

// WriteText writes the document for people: with the colours of a terminal when it
// is one, and lines of at most so many columns; 0 is any length.
func (d *Document) WriteText(w io.Writer, coloured bool, columns int) error {
	if reason := d.sharedReason(); reason != "" {
		_, err := fmt.Fprintf(w, "None of the %d checks could look at %s: %s\n", len(d.Checks), d.Target, printable(reason))
		return err
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	paint := painter(coloured)
	fmt.Fprintf(table, "CHECK\tDATABASE\t%s\tOBJECTS\tBYTES\tSECONDS\n", paint("", "OUTCOME"))
	for _, c := range d.Checks {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%.1f\n", c.Check, printable(c.Database), paint(string(c.Outcome), string(c.Outcome)), c.Objects, bytesForPeople(c.Bytes), c.Seconds)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, f := range d.Findings {
		fmt.Fprintf(&b, "\n%s  %s  %s\n", paint(string(f.Severity), strings.ToUpper(string(f.Severity))), f.Class, printable(f.Object()))
		for _, part := range [][2]string{{"  what:    ", f.Message}, {"  impact:  ", f.Impact}, {"  action:  ", f.Action}} {
			b.WriteString(wrap(part[0], printable(part[1]), columns))
		}
		fmt.Fprintf(&b, "  found by %s, fingerprint %s", f.Check, f.Fingerprint)
		if f.SQLState != "" {
			fmt.Fprintf(&b, ", SQLSTATE %s", f.SQLState)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, r := range d.reasons() {
		b.WriteString(wrap("Not all looked at: ", printable(r), columns))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Idle)) {
		b.WriteString(wrap("Not run: ", name+": "+d.Idle[name]+".", columns))
	}
	b.WriteString("\n" + wrap("", d.verdict(), columns))
	if d.Conclusion != "" {
		b.WriteString(wrap("", printable(d.Conclusion), columns))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// reasons are why checks could not look at everything, each once.
func (d *Document) reasons() []string {
	var order []string
	told := make(map[string][]string) // by reason
	for _, c := range d.Checks {
		if c.Reason == "" {
			continue
		}
		if told[c.Reason] == nil {
			order = append(order, c.Reason)
		}
		name := c.Check
		if c.Database != "" {
			name += " in " + c.Database
		}
		told[c.Reason] = append(told[c.Reason], name)
	}
	for i, reason := range order {
		order[i] = strings.Join(told[reason], ", ") + ": " + reason
	}
	return order
}

// wrap breaks a text between words, behind a heading and below its end. A word
// that is too long stays whole, and so does a command, which somebody may copy.
func wrap(heading, text string, columns int) string {
	var b strings.Builder
	b.WriteString(heading)
	used, indent := len(heading), strings.Repeat(" ", len(heading))
	for i, word := range together(text) {
		length := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case columns > 0 && used+1+length > columns:
			b.WriteString("\n" + indent)
			used = len(indent)
		default:
			b.WriteString(" ")
			used++
		}
		b.WriteString(word)
		used += length
	}
	b.WriteString("\n")
	return b.String()
}

// together are the words of a text, with a command of ours and its flags as one.
func together(text string) []string {
	var words []string
	glued := 0
	for word := range strings.SplitSeq(text, " ") {
		if n := len(words); n > 0 && (glued > 0 || strings.HasPrefix(word, "--")) {
			words[n-1] += " " + word
		} else {
			words = append(words, word)
		}
		glued--
		if word == "pg_integrity_exporter" {
			glued = 2
		}
	}
	return words
}

// painter gives a text the colour of a severity or an outcome. All codes have
// the same length, so that columns stay in line.
func painter(coloured bool) func(kind, text string) string {
	codes := map[string]int{
		string(SeverityCritical): 31, string(OutcomeFindings): 31, string(SeverityWarning): 33, string(OutcomeFailed): 33,
		string(OutcomeSkipped): 33, string(OutcomeOK): 32,
	}
	return func(kind, text string) string {
		if !coloured {
			return text
		}
		code, known := codes[kind]
		if !known {
			code = 39
		}
		return fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, text)
	}
}

// sharedReason is why all checks failed, when it is the same for all: nobody
// wants to read twenty times that the server is down.
func (d *Document) sharedReason() string {
	if len(d.Checks) < 2 {
		return ""
	}
	first := d.Checks[0].Reason
	for _, c := range d.Checks {
		if c.Outcome != OutcomeFailed || c.Reason != first {
			return ""
		}
	}
	return first
}

// verdict is the document in one sentence.
func (d *Document) verdict() string {
	incomplete := 0
	for _, c := range d.Checks {
		if c.Reason != "" {
			incomplete++
		}
	}
	suffix := ""
	if incomplete > 0 {
		suffix = fmt.Sprintf(" %d of %d checks could not look at everything; the reasons are above.", incomplete, len(d.Checks))
	}
	switch d.ExitCode() {
	case ExitFindings:
		return fmt.Sprintf("%s has %d findings.%s", d.Target, len(d.Findings), suffix)
	case ExitIncomplete:
		return fmt.Sprintf("Nothing was found in %s, but that proves little:%s", d.Target, suffix)
	}
	return fmt.Sprintf("Nothing was found in %s.%s", d.Target, suffix)
}

// printable replaces what could fool a terminal: names come from the server.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, text)
}

func bytesForPeople(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	value := float64(n)
	for len(units) > 1 && value >= 1024 {
		value /= 1024
		units = units[1:]
	}
	if units[0] == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[0])
}

// The elements of a JUnit report.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitMessage `xml:"failure,omitempty"`
		Error   *junitMessage `xml:"error,omitempty"`
		Skipped *junitMessage `xml:"skipped,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the document as JUnit XML: one suite for the server, one
// test case for each check in each database.
func (d *Document) WriteJUnit(w io.Writer) error {
	suite := junitSuite{Name: d.Target, Tests: len(d.Checks)}
	for _, c := range d.Checks {
		test := junitCase{Class: c.Check, Name: c.Check + " " + c.Database, Time: fmt.Sprintf("%.3f", c.Seconds)}
		switch c.Outcome {
		case OutcomeFindings:
			suite.Failures++
			test.Failure = &junitMessage{Message: fmt.Sprintf("%d findings", len(c.Findings)), Text: findingLines(c.Findings)}
		case OutcomeFailed:
			suite.Errors++
			test.Error = &junitMessage{Message: c.Reason}
		case OutcomeSkipped:
			suite.Skipped++
			test.Skipped = &junitMessage{Message: c.Reason}
		case OutcomeOK:
		}
		suite.Cases = append(suite.Cases, test)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(junitSuites{Suites: []junitSuite{suite}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func findingLines(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%s: %s: %s\n", f.Severity, f.Object(), f.Message)
	}
	return b.String()
}
