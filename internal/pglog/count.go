package pglog

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// CounterKind says what a Counter counts.
type CounterKind string

// The kinds of counters: messages by severity and class, errors by SQLSTATE,
// events by kind, errors by category of the applications and roles that are
// asked for, and bytes of the log that nobody could read.
const (
	CountMessages     CounterKind = "message"
	CountErrors       CounterKind = "error"
	CountEvents       CounterKind = "event"
	CountApplications CounterKind = "application"
	CountRoles        CounterKind = "role"
	CountLostBytes    CounterKind = "lost_bytes"
)

// Counter is one counter of the log.
type Counter struct {
	Kind CounterKind `json:"kind"`
	// Database is the database, or NoDatabase; empty for kinds that have none.
	Database string `json:"database,omitempty"`
	// Severity and Class are those of MessageLabel.
	Severity Severity `json:"severity,omitempty"`
	Class    string   `json:"class,omitempty"`
	// SQLState is that of Condition.
	SQLState string `json:"sqlstate,omitempty"`
	// Event is the kind of event.
	Event EventKind `json:"event,omitempty"`
	// Name is the application or role, and Category what kind of trouble it had.
	Name     string   `json:"name,omitempty"`
	Category Category `json:"category,omitempty"`
}

// NoDatabase is the database of messages of processes that have none, and of
// connections that were refused before they had one.
const NoDatabase = "none"

// OtherDatabases is where messages are counted when there are too many
// databases, or names that no database has.
const OtherDatabases = "other"

// maxDatabases bounds the names of databases in counters.
const maxDatabases = 100

// ownApplication is how the application_name of the exporter's own sessions
// begins. What goes wrong in them is reported by the checks.
const ownApplication = "pg_integrity_exporter"

// Labels bounds the label values that the readers of one target's logs may
// make. It is safe for several readers at once.
type Labels struct {
	applications map[string]bool
	roles        map[string]bool

	mu        sync.Mutex
	databases map[string]bool
}

// NewLabels makes the bounds. Only the given applications and roles are counted
// by name; databases are those that were counted before.
func NewLabels(applications, roles, databases []string) *Labels {
	l := &Labels{applications: set(applications), roles: set(roles), databases: set(databases)}
	delete(l.databases, NoDatabase)
	delete(l.databases, OtherDatabases)
	return l
}

func set(names []string) map[string]bool {
	s := make(map[string]bool, len(names))
	for _, name := range names {
		s[name] = true
	}
	return s
}

// database is the label value of a database.
func (l *Labels) database(name, sqlstate string) string {
	switch {
	case name == "":
		return NoDatabase
	case sqlstate == "3D000":
		// Anybody can ask for a database that does not exist; its name is not one.
		return OtherDatabases
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.databases[name] {
		return name
	}
	if len(l.databases) >= maxDatabases {
		return OtherDatabases
	}
	l.databases[name] = true
	return name
}

const (
	// maxEvents bounds the events of one batch. Further ones about the same
	// things are only counted.
	maxEvents = 500
	// maxTallies bounds the combinations of labels in one batch. What goes beyond
	// is counted all the same, only more slowly.
	maxTallies = 1 << 12
)

// counts collects what one batch counted.
type counts struct {
	labels  *Labels
	delta   map[Counter]uint64
	events  []Event
	logged  []Statement
	known   map[eventKey]bool
	samples samples
	// since is when a message must have been logged to be counted; zero is any time.
	since time.Time

	tallies map[string]*tally
	key     []byte

	// extension is what the extension logerrors has counted already, and older says
	// that a message of which the time is not known is one of these.
	extension *ExtensionPosition
	older     bool
}

// tally counts the messages of one severity, SQLSTATE and database.
type tally struct {
	severity Severity
	sqlstate string
	database string
	n        uint64
}

// eventKey tells events apart that say something new.
type eventKey struct {
	kind           EventKind
	database, path string
	name           string
	oid            uint32
	mentioned      string
}

func newCounts(labels *Labels) *counts {
	c := &counts{labels: labels}
	c.clear()
	return c
}

func (c *counts) clear() {
	c.delta = make(map[Counter]uint64)
	c.events = nil
	c.logged = nil
	c.known = make(map[eventKey]bool)
	c.samples = samples{}
	c.tallies = make(map[string]*tally)
}

// batch hands over what was counted and begins anew.
func (c *counts) batch(source string, position Position, old bool) Batch {
	c.settle()
	b := Batch{
		Counts: c.delta, Events: c.events, Statements: c.logged, Samples: c.samples.list(time.Now()), Source: source, Position: position, Old: old,
	}
	c.clear()
	return b
}

// empty says that there is nothing to keep.
func (c *counts) empty() bool { return len(c.delta) == 0 && len(c.tallies) == 0 && len(c.logged) == 0 }

// add counts a message. Most are below WARNING and cost nothing here.
func (c *counts) add(m *Message) {
	if isQuiet(m.severity, m.sqlstate) {
		switch {
		case isTrouble(m.sqlstate):
			c.addEvent(m, Quiet, m.SQLState(), c.recent(m))
		case ofServer(m.text):
			c.addEvent(m, Quiet, "00000", c.recent(m))
		case len(c.logged) < maxStatements && statementAt(m.text) >= 0 && !bytes.HasPrefix(m.application, []byte(ownApplication)):
			if s, ok := statementOf(m); ok {
				c.logged = append(c.logged, s)
			}
		}
		return
	}
	if bytes.HasPrefix(m.application, []byte(ownApplication)) {
		return
	}
	t, counted := c.tally(m), c.recent(m)
	c.addEvent(m, t.severity, t.sqlstate, counted)
	c.samples.add(m, t)
	if !counted || c.extension.has(m, c.older) {
		return
	}
	t.n++
	if t.severity == Warning {
		return
	}
	if len(c.labels.applications) > 0 && c.labels.applications[m.Application()] {
		c.delta[Counter{Kind: CountApplications, Name: m.Application(), Category: ConditionOf(t.sqlstate).Category}]++
	}
	if len(c.labels.roles) > 0 && c.labels.roles[m.User()] {
		c.delta[Counter{Kind: CountRoles, Name: m.User(), Category: ConditionOf(t.sqlstate).Category}]++
	}
}

// recent says whether a message counts: whatever comes behind the first one that
// is young enough is younger.
func (c *counts) recent(m *Message) bool {
	if !c.since.IsZero() && m.time().After(c.since) {
		c.since = time.Time{}
	}
	return c.since.IsZero()
}

// tally finds the tally of a message. Bytes are compared before they are
// decoded, because a storm of errors has few different ones.
func (c *counts) tally(m *Message) *tally {
	c.key = append(append(append(append(append(c.key[:0], m.severity...), 0), m.sqlstate...), 0), m.database...)
	if t := c.tallies[string(c.key)]; t != nil {
		return t
	}
	sqlstate := m.SQLState()
	t := &tally{severity: m.Severity(), sqlstate: sqlstate, database: c.labels.database(m.Database(), sqlstate)}
	if len(c.tallies) >= maxTallies {
		c.settle()
	}
	c.tallies[string(c.key)] = t
	return t
}

// addMany counts messages of which there is nothing but the number.
func (c *counts) addMany(key ExtensionKey, n uint64) {
	t := &tally{key.Severity, key.SQLState, key.Database, n}
	if key.Database != OtherDatabases {
		t.database = c.labels.database(key.Database, key.SQLState)
	}
	c.settleOne(t)
	if ConditionOf(key.SQLState).Category == Corruption {
		// Whether a function raised it nobody can tell.
		c.delta[Counter{Kind: CountEvents, Event: Suspect}] += n
		c.events = append(c.events, Event{
			Kind: Suspect, Severity: key.Severity, SQLState: key.SQLState, Database: key.Database, Text: "counted by the extension logerrors, without its text",
		})
	}
	if key.Severity != Warning && c.labels.roles[key.User] {
		c.delta[Counter{Kind: CountRoles, Name: key.User, Category: ConditionOf(key.SQLState).Category}] += n
	}
}

// settle turns tallies into counters.
func (c *counts) settle() {
	for _, t := range c.tallies {
		c.settleOne(t)
	}
	c.tallies = make(map[string]*tally)
}

func (c *counts) settleOne(t *tally) {
	if t.n == 0 {
		return
	}
	label := MessageLabelOf(t.severity, t.sqlstate)
	c.delta[Counter{Kind: CountMessages, Database: t.database, Severity: label.Severity, Class: label.Class}] += t.n
	if t.severity != Warning {
		c.delta[Counter{Kind: CountErrors, Database: t.database, SQLState: ConditionOf(t.sqlstate).SQLState}] += t.n
	}
}

// addEvent adds what a message tells of; what is not counted still says what to
// look at.
func (c *counts) addEvent(m *Message, severity Severity, sqlstate string, counted bool) {
	event, ok := eventOf(m, severity, sqlstate)
	if !ok {
		return
	}
	if counted {
		c.delta[Counter{Kind: CountEvents, Event: event.Kind}]++
		if severity == Panic && event.Kind != PanicStop {
			c.delta[Counter{Kind: CountEvents, Event: PanicStop}]++
		}
	}
	key := eventKey{event.Kind, event.Database, event.Object.Path, event.Object.Name, event.Object.OID, strings.Join(event.Mentioned, " ")}
	if len(c.events) < maxEvents && !c.known[key] {
		c.known[key] = true
		c.events = append(c.events, event)
	}
}

// lose counts bytes that nobody could read.
func (c *counts) lose(n int64) {
	if n > 0 {
		c.delta[Counter{Kind: CountLostBytes}] += uint64(n)
	}
}

// Sample is one kind of message with what varies taken out.
type Sample struct {
	// Text is the message with ? for numbers and for everything in quotes.
	Text     string   `json:"text"`
	Severity Severity `json:"severity"`
	SQLState string   `json:"sqlstate"`
	Database string   `json:"database"`
	// Count is how often it was seen. When there are more kinds of messages than
	// are kept, it may be too high by what a forgotten one had.
	Count uint64 `json:"count"`
	// First and Last are when it was seen.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// sampleKey tells samples apart.
type sampleKey struct {
	text, sqlstate, database string
	severity                 Severity
}

func (s Sample) key() sampleKey { return sampleKey{s.Text, s.SQLState, s.Database, s.Severity} }

const (
	// maxSampleText is how much of a message a sample keeps.
	maxSampleText = 200
	// maxBatchSamples bounds the samples of one batch.
	maxBatchSamples = 200
	// everySample is how many messages of a batch are all looked at; of the
	// others only each sampleStep-th is, and stands for as many.
	everySample, sampleStep = 2000, 32
)

// samples collects samples of one batch.
type samples struct {
	seen  uint64
	found map[sampleKey]uint64
}

func (s *samples) add(m *Message, t *tally) {
	s.seen++
	weight := uint64(1)
	if s.seen > everySample {
		if s.seen%sampleStep != 0 {
			return
		}
		weight = sampleStep
	}
	if s.found == nil {
		s.found = make(map[sampleKey]uint64)
	}
	text := m.text[:min(len(m.text), 4*maxSampleText)]
	key := sampleKey{normalise(m.decode(text)), t.sqlstate, t.database, t.severity}
	if _, known := s.found[key]; known || len(s.found) < maxBatchSamples {
		s.found[key] += weight
	}
}

// list gives the samples of the batch.
func (s *samples) list(now time.Time) []Sample {
	list := make([]Sample, 0, len(s.found))
	for key, n := range s.found {
		list = append(list, Sample{
			Text: key.text, Severity: key.severity, SQLState: key.sqlstate, Database: key.database, Count: n, First: now, Last: now,
		})
	}
	return list
}

// closing are the quotes of PostgreSQL's languages with those that end them.
var closing = map[rune]rune{'"': '"', '\'': '\'', '«': '»', '»': '«', '„': '“', '“': '”', '「': '」'}

// normalise takes out of a message what varies and what may be somebody's
// data: everything in quotes, and every word with a digit in it.
func normalise(text string) string {
	var out strings.Builder
	var quote rune
	word := ""
	flush := func() {
		if strings.ContainsAny(word, "0123456789@") {
			word = "?"
		}
		out.WriteString(word)
		word = ""
	}
	previous := ' '
	for _, r := range text {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case closing[r] != 0 && (r != '\'' || !isLetter(previous)):
			flush()
			quote = closing[r]
			out.WriteString("?")
		case r == ' ' || r == '\n' || r == '\t' || r == '(' || r == ')' || r == ',' || r == ':' || r == ';' || r == '=':
			flush()
			if r == '\n' || r == '\t' {
				r = ' '
			}
			out.WriteRune(r)
		default:
			word += string(r)
		}
		previous = r
		if out.Len() > maxSampleText {
			break
		}
	}
	flush()
	result := out.String()
	return strings.ToValidUTF8(result[:min(len(result), maxSampleText)], "")
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// keepSamples is how many samples are kept.
const keepSamples = 100

// MergeSamples adds new samples to those that are kept, the most frequent first.
// The rarest makes room for a new one, which inherits its count.
func MergeSamples(kept, more []Sample) []Sample {
	index := make(map[sampleKey]int, len(kept)+len(more))
	merged := append(make([]Sample, 0, len(kept)+len(more)), kept...)
	for i, s := range merged {
		index[s.key()] = i
	}
	for _, s := range more {
		i, known := index[s.key()]
		switch {
		case known:
			merged[i].Count += s.Count
			merged[i].Last = s.Last
		case len(merged) < keepSamples:
			index[s.key()] = len(merged)
			merged = append(merged, s)
		default:
			rarest := 0
			for j := range merged {
				if merged[j].Count < merged[rarest].Count {
					rarest = j
				}
			}
			delete(index, merged[rarest].key())
			s.Count += merged[rarest].Count
			index[s.key()] = rarest
			merged[rarest] = s
		}
	}
	sortSamples(merged)
	return merged
}

func sortSamples(list []Sample) {
	slices.SortStableFunc(list, func(a, b Sample) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Text, b.Text))
	})
}
