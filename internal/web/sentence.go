package web

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"pg_integrity_exporter/internal/check"
)

// judge says in one sentence whether the data is safe. What is worse comes
// first, and what is not known is never called well.
func (v *View) judge(now time.Time) {
	v.groups = groups(v.Findings)
	of := func(severity check.Severity, classes ...check.Class) []*groupView {
		return slices.DeleteFunc(slices.Clone(v.groups), func(g *groupView) bool {
			return g.Severity != severity || len(classes) > 0 && !slices.Contains(classes, g.Class)
		})
	}
	damaged, broken := of(check.SeverityCritical, check.ClassCorruption), of(check.SeverityCritical, check.ClassDataRule)
	risks, lesser := of(check.SeverityCritical), len(of(check.SeverityWarning))
	unseen := v.unseen()
	switch {
	case len(damaged) > 0:
		v.Verdict, v.Sentence = VerdictDamaged, "Data is damaged: "+named(damaged, now)
	case len(broken) > 0:
		v.Verdict, v.Sentence = VerdictDamaged, "The data cannot be trusted: "+named(broken, now)
	case len(risks) > 0:
		v.Verdict, v.Sentence = VerdictAtRisk, "The data is at risk: "+threatened(risks, now)
	case v.Unreachable != "":
		v.Verdict, v.Sentence = VerdictUnknown, "Not known: the server does not answer: "+ended(v.Unreachable)
		return
	case len(v.Checks) == 0:
		v.Verdict, v.Sentence = VerdictUnknown, "Not known: the exporter has not reached the server since it started."
	case unseen.never == len(v.Checks):
		v.Verdict, v.Sentence = VerdictUnknown, fmt.Sprintf("Not known: none of %s has run yet.", count(len(v.Checks), "check"))
	case unseen.why() != "":
		v.Verdict = VerdictUnknown
		v.Sentence = fmt.Sprintf("Not known: of %s %s. ", count(len(v.Checks), "check"), unseen.why())
		if lesser > 0 {
			v.Sentence += fmt.Sprintf("What was looked at has no known damage; %s should be looked at.", count(lesser, "finding"))
		} else {
			v.Sentence += "What was looked at is well."
		}
	case lesser > 0:
		v.Verdict = VerdictWarning
		v.Sentence = fmt.Sprintf("No damage is known; %s should be looked at. The oldest proof is from %s.", count(lesser, "finding"), ago(unseen.oldest, now))
	case unseen.skipped > 0:
		v.Verdict = VerdictUnknown
		v.Sentence = fmt.Sprintf("What was looked at is well, but %s cannot run here; see below what they need.", count(unseen.skipped, "check"))
	case len(v.doubts()) > 0:
		v.Verdict = VerdictWarning
		v.Sentence = fmt.Sprintf("No damage is known: every check has passed, the oldest proof is from %s.", ago(unseen.oldest, now))
	default:
		v.Verdict = VerdictGood
		v.Sentence = fmt.Sprintf("The data is safe: every check has passed, the oldest proof is from %s.", ago(unseen.oldest, now))
	}
	for _, doubt := range v.doubts() {
		v.Sentence += " " + doubt
	}
}

// doubts are what the verdict leaves open.
func (v *View) doubts() []string {
	var doubts []string
	if v.Unreachable != "" {
		doubts = append(doubts, "The server does not answer now: "+ended(v.Unreachable))
	}
	if v.Log.Problem != "" && v.Unreachable == "" {
		doubts = append(doubts, "The server's log is not read, so new damage is noticed by the next check only.")
	}
	for _, r := range v.Recovery {
		if r.RecoveryPoint.IsZero() {
			doubts = append(doubts, fmt.Sprintf("Nothing could be brought back from the repository %s.", visible(r.Repository)))
			break
		}
	}
	return doubts
}

// ended is a text that ends like a sentence.
func ended(text string) string {
	if strings.HasSuffix(text, ".") || strings.HasSuffix(text, "?") {
		return text
	}
	return text + "."
}

// unseen is what the checks have not looked at.
type unseen struct {
	never, failed, skipped, overdue int
	// oldest is the last success that is furthest back.
	oldest time.Time
}

func (v *View) unseen() unseen {
	u := unseen{oldest: v.Generated}
	for _, c := range v.Checks {
		switch {
		case c.Outcome == outcomeNever:
			u.never++
		case c.Outcome == string(check.OutcomeFailed):
			u.failed++
		case c.Outcome == string(check.OutcomeSkipped):
			u.skipped++
		case c.Overdue:
			u.overdue++
		}
		if !c.LastSuccess.IsZero() && c.LastSuccess.Before(u.oldest) {
			u.oldest = c.LastSuccess
		}
	}
	return u
}

// why says what keeps people from knowing; empty is that nothing does but what
// cannot run here.
func (u unseen) why() string {
	var parts []string
	for _, p := range []struct {
		n         int
		one, many string
	}{
		{u.never, "has not run yet", "have not run yet"},
		{u.failed, "could not look at everything", "could not look at everything"},
		{u.overdue, "is overdue", "are overdue"},
	} {
		switch {
		case p.n == 1:
			parts = append(parts, "1 "+p.one)
		case p.n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.many))
		}
	}
	if len(parts) > 0 && u.skipped > 0 {
		parts = append(parts, fmt.Sprintf("%d cannot run here", u.skipped))
	}
	if len(parts) > 1 {
		parts = []string{strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1]}
	}
	return strings.Join(parts, "")
}

// earliest is the group that was seen first.
func earliest(found []*groupView) *groupView {
	return slices.MinFunc(found, func(a, b *groupView) int { return a.FirstSeen.Compare(b.FirstSeen) })
}

// named says what is wrong and since when.
func named(found []*groupView, now time.Time) string {
	first := earliest(found)
	switch {
	case len(found) > 1:
		return fmt.Sprintf("%s, the first seen %s: %s.", count(len(found), "object"), ago(first.FirstSeen, now), first.Object)
	case first.Pages > 0:
		return fmt.Sprintf("%s, %s, first seen %s.", first.Object, count(first.Pages, "page"), ago(first.FirstSeen, now))
	}
	return fmt.Sprintf("%s, first seen %s.", first.Object, ago(first.FirstSeen, now))
}

// threatened says what endangers the data, in the words of the first finding.
func threatened(found []*groupView, now time.Time) string {
	first := earliest(found)
	text := strings.TrimSuffix(first.Evidence[0], ".")
	if first.Object != orServer("") {
		text += " (" + first.Object + ")"
	}
	text += ", first seen " + ago(first.FirstSeen, now)
	if more := len(found) - 1; more > 0 {
		text += "; and " + count(more, "more reason")
	}
	return text + "."
}

// visible shows what a text would otherwise do to the page: line breaks,
// control characters, and those that turn the direction of writing round.
func visible(text string) string {
	if !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if hidden(r) {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func hidden(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// ago is how long before now a moment was, for people.
func ago(moment, now time.Time) string {
	if moment.IsZero() {
		return "never"
	}
	passed := now.Sub(moment)
	if passed < 0 {
		return "in " + span(-passed)
	}
	if passed < time.Second {
		return "just now"
	}
	return span(passed) + " ago"
}

// span is a duration for people, in its largest unit that counts at least two.
func span(d time.Duration) string {
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if d >= 2*unit.size {
			return fmt.Sprintf("%d %ss", d/unit.size, unit.name)
		}
	}
	return count(int(d/time.Second), "second")
}
