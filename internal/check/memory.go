package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"pg_integrity_exporter/internal/pg"
)

// Memory keeps what a check wants to know in its next run: some damage needs
// two witnesses in time. It may be shared by several processes.
type Memory interface {
	// Recall reads what was remembered under a key; found is false when nothing
	// was.
	Recall(key string, into any) (found bool, err error)
	// Remember keeps a value, as JSON, under a key.
	Remember(key string, value any) error
	// Directory is where to keep what is too large for that; "" is nowhere.
	Directory() string
}

// remembered is a value together with the cluster that it belongs to: another
// cluster may have the same address tomorrow.
type remembered struct {
	SystemIdentifier int64           `json:"system_identifier"`
	Value            json.RawMessage `json:"value"`
}

// recall reads what the same check remembered in an earlier run in the same
// database of the same cluster.
func (s *session) recall(ctx context.Context, key string, into any) (found bool, err error) {
	if s.scope.Memory == nil {
		return false, nil
	}
	identifier, err := s.systemIdentifier(ctx)
	if err != nil || identifier == 0 {
		return false, err
	}
	var kept remembered
	found, err = s.scope.Memory.Recall(s.memoryKey(key), &kept)
	if err != nil || !found || kept.SystemIdentifier != identifier {
		return false, err
	}
	if err := json.Unmarshal(kept.Value, into); err != nil {
		return false, fmt.Errorf("what the check %s remembers of %s: %w", s.name, key, err)
	}
	return true, nil
}

// remember keeps a value for the next run. It does nothing without a memory.
func (s *session) remember(ctx context.Context, key string, value any) error {
	if s.scope.Memory == nil {
		return nil
	}
	identifier, err := s.systemIdentifier(ctx)
	if err != nil || identifier == 0 {
		return err
	}
	content, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("remembering %s: %w", key, err)
	}
	return s.scope.Memory.Remember(s.memoryKey(key), remembered{SystemIdentifier: identifier, Value: content})
}

func (s *session) memoryKey(key string) string {
	if s.server {
		return s.name + "/" + key
	}
	return s.name + "/" + s.database + "/" + key
}

// systemIdentifier is the cluster's own name. pg_control_system() reads the
// control file; everybody may call it. It is 0 when that file is damaged: the check
// cluster says so, and the others go on without what they remember.
func (s *session) systemIdentifier(ctx context.Context) (int64, error) {
	if s.identifier != 0 {
		return s.identifier, nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout) // nothing cancels a process that waits for a file
	defer cancel()
	err := s.conn.QueryRow(ctx, "SELECT system_identifier FROM pg_control_system()").Scan(&s.identifier)
	if errors.Is(err, context.DeadlineExceeded) {
		s.scope.Heaps.hang(err)
	}
	if err != nil && !pg.Unreadable(err) {
		return 0, fmt.Errorf("asking for the system identifier: %w", err)
	}
	return s.identifier, nil
}
