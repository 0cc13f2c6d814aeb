package web

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
)

// groupView is what is wrong with one object, for people: one damaged table has
// many damaged pages, and several checks see each of them.
type groupView struct {
	Object   string
	Severity check.Severity
	Class    check.Class
	// Impact and Action are those of the gravest finding.
	Impact, Action      string
	FirstSeen, LastSeen time.Time
	// LastGood is the earliest of its findings that have one; zero is that the
	// object was never checked before.
	LastGood time.Time
	// Pages counts the damaged pages that are known by number.
	Pages int
	// Checks are the names of those that found it, SQLStates what the server said.
	Checks, SQLStates []string
	// Evidence are the messages; More are those that the page folds away, and
	// Hidden counts those that only the same as data has.
	Evidence, More []string
	Hidden         int
	// Acknowledged is by whom the last of the findings was taken on; nil when one
	// of them is new.
	Acknowledged *Acknowledgement
	// Fingerprints identify the findings.
	Fingerprints []string
}

const (
	// shownEvidence is how much of the evidence the page shows at once, and
	// foldedEvidence how much it folds away.
	shownEvidence, foldedEvidence = 3, 20
	// shownGroups is how many objects the page tells everything of, and
	// listedGroups how many more it lists.
	shownGroups, listedGroups = 20, 200
)

// Runbook is the runbook for what is wrong with the object.
func (g *groupView) Runbook() string {
	switch g.Class {
	case check.ClassCorruption:
		if g.Severity == check.SeverityCritical {
			return "PostgresCorruptionDetected"
		}
		return "PostgresCorruptionSuspected"
	case check.ClassDataRule:
		return "PostgresDataRuleBroken"
	case check.ClassDrift:
		return "PostgresDrift"
	case check.ClassUnsafeSetting:
		return "PostgresUnsafeConfiguration"
	case check.ClassRecoverability:
		return "PostgresRecoverabilityAtRisk"
	case check.ClassLeftover:
		return "PostgresLeftover"
	}
	return ""
}

// Dated says that a backup from before the finding is worth something: the
// finding is about data, not about how the server is run.
func (g *groupView) Dated() bool {
	return g.Class == check.ClassCorruption || g.Class == check.ClassDataRule
}

// objectOf is the finding's object without its block.
func objectOf(f check.Finding) string {
	f.Block = nil
	if f.Database == "" && f.Relation == "" {
		return orServer("")
	}
	return visible(f.Object())
}

// groups puts the findings of one class in one object together, the gravest
// object first.
func groups(findings []FindingView) []*groupView {
	var all []*groupView
	of := make(map[string]*groupView)
	pages := make(map[string]bool)
	for _, f := range findings {
		key := objectOf(f.Finding) + "\x00" + string(f.Class)
		g := of[key]
		if g == nil {
			g = &groupView{
				Object: objectOf(f.Finding), Class: f.Class, Severity: f.Severity, Impact: f.Impact, Action: f.Action,
				FirstSeen: f.FirstSeen, LastGood: f.LastGood, Acknowledged: f.Acknowledged,
			}
			of[key] = g
			all = append(all, g)
		}
		if rank(f.Severity) < rank(g.Severity) {
			g.Severity, g.Impact, g.Action = f.Severity, f.Impact, f.Action
		}
		if f.FirstSeen.Before(g.FirstSeen) {
			g.FirstSeen = f.FirstSeen
		}
		if f.LastSeen.After(g.LastSeen) {
			g.LastSeen = f.LastSeen
		}
		if g.LastGood.IsZero() || !f.LastGood.IsZero() && f.LastGood.Before(g.LastGood) {
			g.LastGood = f.LastGood
		}
		if f.Acknowledged == nil {
			g.Acknowledged = nil
		}
		message := f.Message
		if f.Block != nil {
			if page := fmt.Sprintf("%s\x00%d", key, *f.Block); !pages[page] {
				pages[page] = true
				g.Pages++
			}
			if block := fmt.Sprintf("block %d", *f.Block); !strings.Contains(message, block) {
				message = block + ": " + message
			}
		}
		g.Checks = once(g.Checks, f.Check)
		if f.SQLState != "" {
			g.SQLStates = once(g.SQLStates, f.SQLState)
		}
		g.Evidence = once(g.Evidence, visible(message))
		g.Fingerprints = append(g.Fingerprints, f.Fingerprint)
	}
	for _, g := range all {
		shown := min(len(g.Evidence), shownEvidence)
		g.Evidence, g.More = g.Evidence[:shown], g.Evidence[shown:]
		if g.Hidden = max(len(g.More)-foldedEvidence, 0); g.Hidden > 0 {
			g.More = g.More[:foldedEvidence]
		}
	}
	slices.SortStableFunc(all, func(a, b *groupView) int {
		return cmp.Or(cmp.Compare(rank(a.Severity), rank(b.Severity)), a.FirstSeen.Compare(b.FirstSeen), strings.Compare(a.Object, b.Object))
	})
	return all
}

func rank(s check.Severity) int {
	return slices.Index([]check.Severity{check.SeverityCritical, check.SeverityWarning, check.SeverityInfo}, s)
}

// once adds a text that is not in the list yet.
func once(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}
