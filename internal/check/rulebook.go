package check

import (
	"context"
	"errors"
	"slices"
	"time"
)

// rulebook runs configured rules, each in its own interval, and keeps what came
// of them, so that every result of the check tells of all rules: of those that
// were not due what their last run told.
type rulebook struct {
	s        *session
	outcomes map[string]outcome
	known    []string
}

// outcome is what came of a rule.
type outcome struct {
	Time     time.Time   `json:"time"`
	Findings []Finding   `json:"findings,omitempty"`
	Problems []hindrance `json:"problems,omitempty"`
}

const outcomesKey = "outcomes"

func (s *session) rulebook(ctx context.Context) *rulebook {
	book := &rulebook{s: s, outcomes: make(map[string]outcome)}
	if _, err := s.recall(ctx, outcomesKey, &book.outcomes); err != nil {
		s.logger.Warn("what the rules told in earlier runs is forgotten", "err", err)
		book.outcomes = make(map[string]outcome)
	}
	return book
}

// retryRule is how soon a rule is tried again that could not be evaluated.
const retryRule = 5 * time.Minute

// run evaluates a rule when it is due, or when a person asks.
func (b *rulebook) run(ctx context.Context, name string, interval time.Duration, evaluate func() error) error {
	b.known = append(b.known, name)
	last, known := b.outcomes[name]
	if len(last.Problems) > 0 {
		interval = min(interval, retryRule)
	}
	if b.s.scope.Scheduled && known && time.Since(last.Time) < interval {
		b.s.result.Findings = append(b.s.result.Findings, last.Findings...)
		b.s.problems = append(b.s.problems, last.Problems...)
		b.s.result.Objects++
		return nil
	}
	findings, problems := len(b.s.result.Findings), len(b.s.problems)
	err := evaluate()
	if ctx.Err() != nil || b.s.conn.IsClosed() {
		return errors.Join(ctx.Err(), err)
	}
	if err != nil {
		b.s.problem(name, err)
	}
	b.outcomes[name] = outcome{
		Time:     time.Now(),
		Findings: slices.Clone(b.s.result.Findings[findings:]),
		Problems: slices.Clone(b.s.problems[problems:]),
	}
	b.s.result.Objects++
	return nil
}

// part evaluates what a rule says of a few relations, at once. When it finds
// something, the whole rule is due.
func (b *rulebook) part(name string, evaluate func() error) error {
	b.known = append(b.known, name)
	findings := len(b.s.result.Findings)
	if err := evaluate(); err != nil {
		return err
	}
	if len(b.s.result.Findings) > findings {
		delete(b.outcomes, name)
	}
	b.s.result.Objects++
	return nil
}

// close keeps the outcomes of the rules that are still configured.
func (b *rulebook) close(ctx context.Context) error {
	for name := range b.outcomes {
		if !slices.Contains(b.known, name) {
			delete(b.outcomes, name)
		}
	}
	return b.s.remember(ctx, outcomesKey, b.outcomes)
}
