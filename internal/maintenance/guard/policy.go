package guard

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/maintenance/script"
)

// Policy says that some maintenance may run, when, by whom, and with which
// proofs. Where there are policies, what none of them permits is refused.
type Policy struct {
	Name string
	// Commands, Relations and Roles are patterns as in a shell; empty is any.
	// Commands are the words of the plan, for example "VACUUM*".
	Commands, Relations, Roles []string
	// From and To are the hours between which it may run, in Location; equal is
	// any time. Days are the days on which the hours begin; empty is any.
	From, To time.Duration
	Days     []time.Weekday
	Location *time.Location
	// Requires are the proofs that it needs: see Proofs.
	Requires []string
}

// Proofs lists what Policy.Requires may hold.
func Proofs() []string {
	return []string{"archive", "backup", "expect-rows", "invariants", "protect", "window"}
}

// policy refuses what no policy permits.
func (b *before) policy(context.Context) error {
	if len(b.options.Policies) == 0 {
		return nil
	}
	statements := b.statements()
	if len(b.options.Command) > 0 {
		statements = []script.Statement{{Line: 0, Class: script.Class{Command: "command " + path.Base(b.options.Command[0])}}}
	}
	for i, s := range statements {
		object := ""
		var relations []string
		if len(b.options.Command) == 0 {
			object, relations = fmt.Sprintf("line %d", s.Line), b.report.Plan[i].Relations
		}
		if s.Class.Command == "SET" || s.Class.Command == "RESET" || s.Class.Control != script.NoControl {
			continue
		}
		reason := "no policy permits " + s.Class.Command
		for _, p := range b.options.Policies {
			if !p.covers(s.Class.Command, relations) {
				continue
			}
			if reason = b.objection(p, s); reason == "" {
				b.answerf("policy", object, OK, "%s is permitted by %s", s.Class.Command, p.Name)
				break
			}
		}
		if reason != "" {
			b.answerf("policy", object, Failed, "%s", reason)
		}
	}
	return nil
}

func matchesAny(patterns []string, text string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
		matched, err := path.Match(pattern, text)
		return err == nil && matched
	})
}

// covers says whether the policy is about a statement.
func (p Policy) covers(command string, relations []string) bool {
	if !matchesAny(p.Commands, command) {
		return false
	}
	return !slices.ContainsFunc(relations, func(r string) bool { return !matchesAny(p.Relations, r) })
}

// objection is why a policy does not permit a statement that it covers.
func (b *before) objection(p Policy, s script.Statement) string {
	if !matchesAny(p.Roles, b.s.Facts.User) {
		return fmt.Sprintf("policy %s permits it to %s, not to %s", p.Name, strings.Join(p.Roles, ", "), b.s.Facts.User)
	}
	if !p.open(time.Now()) {
		return fmt.Sprintf("policy %s permits it only between %s and %s %v", p.Name, clock(p.From), clock(p.To), p.Days)
	}
	for _, proof := range p.Requires {
		if !b.has(proof, s) {
			return fmt.Sprintf("policy %s requires %s", p.Name, proof)
		}
	}
	return ""
}

// has says whether the run brings a proof.
func (b *before) has(proof string, s script.Statement) bool {
	switch proof {
	case "archive":
		return b.settings().MaxArchiveAge > 0
	case "backup":
		return len(b.options.Repositories) > 0 && !b.settings().allows("unproven")
	case "expect-rows":
		return s.Rows != nil || b.settings().ExpectRows != nil || !s.Class.ChangesRows
	case "invariants":
		return len(b.options.Invariants)+len(b.settings().Expect) > 0
	case "protect":
		return !b.settings().NoProtection || len(b.options.Command) == 0
	case "window":
		return b.options.Window
	}
	return false
}

// open says whether the policy's hours include a moment.
func (p Policy) open(now time.Time) bool {
	if p.Location != nil {
		now = now.In(p.Location)
	}
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	onDay := func(day time.Weekday) bool { return len(p.Days) == 0 || slices.Contains(p.Days, day) }
	since := now.Sub(midnight)
	switch {
	case p.From == p.To:
		return onDay(now.Weekday())
	case p.From < p.To:
		return onDay(now.Weekday()) && since >= p.From && since < p.To
	case since >= p.From:
		return onDay(now.Weekday())
	default: // after midnight, of the night that began the day before
		return since < p.To && onDay((now.Weekday()+6)%7)
	}
}

func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60)
}
