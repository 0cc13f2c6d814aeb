package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Standby makes a streaming standby of a running server and waits until it
// accepts connections. It is made with the low-level backup functions, because
// the servers of npm have no pg_basebackup.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	standby, err := s.standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { standby.cleanup(t) })
	return standby
}

func (s *Server) standby(ctx context.Context) (*Server, error) {
	standby, err := prepare(Config{Install: s.Install})
	if err != nil {
		return nil, err
	}
	if err := s.backup(ctx, standby.DataDirectory); err != nil {
		return nil, errors.Join(err, standby.Close())
	}
	if err := os.WriteFile(filepath.Join(standby.DataDirectory, "standby.signal"), nil, 0o600); err != nil {
		return nil, errors.Join(err, standby.Close())
	}
	settings := map[string]string{
		"primary_conninfo": fmt.Sprintf("host=127.0.0.1 port=%d user=%s", s.Port, superuser),
		"hot_standby":      "on",
	}
	if err := errors.Join(standby.configure(settings), GiveAway(standby.Directory)); err != nil {
		return nil, errors.Join(err, standby.Close())
	}
	if err := standby.StartAgain(ctx); err != nil {
		return nil, errors.Join(err, standby.Close())
	}
	return standby, nil
}

// backup copies the data directory between the two backup functions, which
// must be called in one session.
func (s *Server) backup(ctx context.Context, directory string) error {
	start, stop := "SELECT pg_backup_start('pgtest', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if s.Install.Major < 15 {
		start, stop = "SELECT pg_start_backup('pgtest', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	var label string
	err := s.do(ctx, "postgres", func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, start); err != nil {
			return err
		}
		if err := copyTree(s.DataDirectory, directory); err != nil {
			return err
		}
		return conn.QueryRow(ctx, stop).Scan(&label)
	})
	if err != nil {
		return fmt.Errorf("copying the primary: %w", err)
	}
	if err := os.Remove(filepath.Join(directory, "postmaster.pid")); err != nil {
		return fmt.Errorf("copying the primary: %w", err)
	}
	return os.WriteFile(filepath.Join(directory, "backup_label"), []byte(label), 0o600)
}

// Promote makes a primary of a standby.
func (s *Server) Promote(ctx context.Context) error {
	var promoted bool
	if err := s.Query(ctx, "postgres", "SELECT pg_promote(true, 30)", &promoted); err != nil {
		return fmt.Errorf("promoting: %w", err)
	}
	if !promoted {
		return errors.New("promoting: the server is still a standby")
	}
	return nil
}

// AwaitReplay waits until the standby has replayed what the primary has
// written.
func (s *Server) AwaitReplay(ctx context.Context, primary *Server) error {
	var position string
	if err := primary.Query(ctx, "postgres", "SELECT pg_current_wal_lsn()::text", &position); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var replayed bool
		if err := s.Query(ctx, "postgres", "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)", &replayed, position); err != nil {
			return err
		}
		if replayed {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the standby has not replayed %s: %w", position, ctx.Err())
		}
	}
}
