package lab_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// What other programs find of the same damage, when PGTEST_LAB_PEERS is set: the
// pg_amcheck of the newest version that has one here, with its strongest options,
// and pg_checksums of the server's version.

// peerLimit is how long another program may take for one kind of damage.
const peerLimit = 30 * time.Second

// checksumsOf gives the schemas of which pg_checksums names a file, nil when it was
// not run.
func checksumsOf(t *testing.T, server *pgtest.Server, f fileNames, checksums bool) map[string]bool {
	t.Helper()
	program := filepath.Join(server.Install.BinDir, "pg_checksums")
	if _, err := os.Stat(program); err != nil {
		program = "pg_checksums" // of the PATH, when it is of this version
	}
	version, err := exec.CommandContext(t.Context(), program, "--version").Output()
	if err != nil || !checksums || os.Getenv("PGTEST_LAB_PEERS") == "" || !bytes.Contains(version, []byte(") "+strconv.Itoa(server.Install.Major)+".")) {
		return nil
	}
	out, _ := exec.CommandContext(t.Context(), program, "--check", "--pgdata", server.DataDirectory).CombinedOutput() // it fails when it finds something
	schemas := make(map[string]bool)
	for schema, paths := range f.paths {
		for _, path := range paths {
			schemas[schema] = schemas[schema] || bytes.Contains(out, []byte(path+"\"")) || bytes.Contains(out, []byte(path+"_"))
		}
	}
	return schemas
}

// peersOf says what the other programs find in a schema.
func peersOf(t *testing.T, server *pgtest.Server, schema string, sums map[string]bool) map[string]string {
	t.Helper()
	if os.Getenv("PGTEST_LAB_PEERS") == "" {
		return nil
	}
	peers := map[string]string{"pg_amcheck": amcheck(t, server, schema)}
	if sums != nil {
		peers["pg_checksums"] = map[bool]string{true: "found", false: "missed"}[sums[schema]]
	}
	return peers
}

func amcheck(t *testing.T, server *pgtest.Server, schema string) string {
	t.Helper()
	before := crashes(server)
	ctx, cancel := context.WithTimeout(t.Context(), peerLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "pg_amcheck", "--schema="+schema, "--heapallindexed", "--parent-check", "--rootdescend", server.DSN("lab")).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "hang"
	case len(crashes(server)) > len(before):
		server.AwaitAccepting(t)
		return "crash"
	case err == nil:
		return "missed"
	case !errors.As(err, &exit) || strings.Contains(string(out), "no relations to check"):
		t.Errorf("pg_amcheck: %v %s", err, out)
		return "failed"
	}
	return "found"
}
