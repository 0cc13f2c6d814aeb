package offline_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

// TestEveryFile breaks each file of a data directory in each way, one at a time,
// and holds the verdict against a real start. It takes long and runs only when the
// environment variable PGTEST_STARTS is set.
func TestEveryFile(t *testing.T) {
	if os.Getenv("PGTEST_STARTS") == "" {
		t.Skip("set PGTEST_STARTS to start a server after each accident")
	}
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server, whole := everything(t, major)
		for _, name := range filesOf(t, whole) {
			for _, w := range pgtest.Breakages() {
				t.Run(strings.ReplaceAll(name, "/", "|")+" "+w.Name, func(t *testing.T) {
					clone(t, whole, server.DataDirectory, false)
					if err := w.Do(filepath.Join(server.DataDirectory, name)); err != nil {
						t.Skip(err)
					}
					if err := exec.Command("chown", "--no-dereference", "--reference="+filepath.Join(server.DataDirectory, "global"), filepath.Join(server.DataDirectory, name)).Run(); err != nil && w.Name != "lost" {
						t.Fatal(err)
					}
					document := look(t, server.DataDirectory)
					says := strings.HasPrefix(document.Conclusion, "The server will not start")
					err := server.StartAgain(t.Context())
					if says != (err != nil) {
						t.Errorf("the start says otherwise: %v\n%s", err, text(t, document))
					}
					if len(document.Findings) == 0 {
						t.Log("silent")
					}
					if err := server.Stop(pgtest.Immediate); err != nil {
						t.Fatal(err)
					}
				})
			}
		}
	})
}

// filesOf lists the files of a data directory, of the databases only the maps and
// versions, and nothing of the two that the test connects to.
func filesOf(t *testing.T, directory string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, directory+"/")
		if err != nil || entry.IsDir() || strings.HasPrefix(name, "base/") && (!strings.HasPrefix(name, "base/1/") || !strings.Contains(name, "/pg_f") && !strings.Contains(name, "PG_")) {
			return err
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
