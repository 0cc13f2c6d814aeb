package check

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

// kept is a Memory in a map.
type kept map[string][]byte

func (k kept) Recall(key string, into any) (bool, error) {
	content, ok := k[key]
	if !ok {
		return false, nil
	}
	return true, json.Unmarshal(content, into)
}

func (k kept) Remember(key string, value any) error {
	content, err := json.Marshal(value)
	k[key] = content
	return err
}

func (k kept) Directory() string { return "" }

// TestMemory remembers from one run to the next in each database, and runs a
// check of the whole server once. Facts of another cluster at the same address
// are not recalled.
func TestMemory(t *testing.T) {
	t.Parallel()
	var runs, recalled []string
	run := func(ctx context.Context, s *session) error {
		runs = append(runs, s.name+" in "+s.result.Database)
		var word string
		found, err := s.recall(ctx, "word", &word)
		if found {
			recalled = append(recalled, word)
		}
		return errors.Join(err, s.remember(ctx, "word", s.name+"/"+s.database))
	}
	checks := []Check{{Name: "everywhere", run: run}, {Name: "once", Server: true, run: run}}
	memory := kept{}
	sweep := func(server *pgtest.Server) Document {
		runs, recalled = nil, nil
		target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		document, err := Sweep(t.Context(), target, Options{Checks: checks, Memory: memory, Logger: slog.New(slog.DiscardHandler)})
		if err != nil || document.ExitCode() != ExitClean {
			t.Fatalf("%+v, %v", document, err)
		}
		return document
	}
	first := pgtest.Start(t)
	document := sweep(first)
	if len(recalled) != 0 || len(runs) != 3 || len(document.Checks) != 3 || document.Checks[0].Check != "once" || document.Checks[0].Database != "" {
		t.Errorf("first sweep: ran %q, recalled %q, checks %+v", runs, recalled, document.Checks)
	}
	if sweep(first); len(recalled) != 3 {
		t.Errorf("second sweep recalled %q", recalled)
	}
	for key := range memory {
		var value remembered
		if err := json.Unmarshal(memory[key], &value); err != nil {
			t.Fatal(err)
		}
		value.SystemIdentifier++
		if err := memory.Remember(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if sweep(first); len(recalled) != 0 {
		t.Errorf("recalled the facts of another cluster: %q", recalled)
	}
}
