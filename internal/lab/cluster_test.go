package lab_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

// clusterSchema leaves something in every directory of the cluster.
const clusterSchema = `CREATE EXTENSION amcheck;
CREATE EXTENSION pg_visibility;
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 1000) g;
SELECT pg_create_physical_replication_slot('standby', true);
SELECT pg_create_logical_replication_slot('audit', 'pgoutput');
BEGIN; SELECT * FROM t WHERE id < 10 FOR SHARE; PREPARE TRANSACTION 'payment';
DO $$ BEGIN FOR n IN 1..20 LOOP PERFORM FROM t WHERE id = 1 FOR KEY SHARE; COMMIT; END LOOP; END $$;
CREATE ROLE clerk; CREATE ROLE boss IN ROLE clerk; ALTER ROLE boss SET work_mem = '8MB'; COMMENT ON DATABASE lab IS 'books'; COMMENT ON ROLE boss IS 'signs';
CREATE SUBSCRIPTION books CONNECTION 'dbname=postgres' PUBLICATION books WITH (connect = false);
SELECT pg_replication_origin_create('origin');
CHECKPOINT`

// unread are files that the server writes and never needs again, or makes anew at
// each start.
var unread = regexp.MustCompile(`^(postmaster\.|pg_subtrans/|pg_notify/|pg_stat|pg_dynshmem/|pg_serial/|.*pg_internal\.init$|.*current_logfiles$|pg_wal/archive_status/)`)

// TestClusterFiles breaks each file of a running server that belongs to no database,
// in each way, and puts it back.
func TestClusterFiles(t *testing.T) {
	if !areas(t)("cluster") {
		t.Skip("PGTEST_LAB does not name cluster")
	}
	binary := builtProgram(t)
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		checksums := os.Getenv("PGTEST_LAB_CHECKSUMS") != "false"
		server := launch(t, major, checksums, clusterSchema)
		if server == nil {
			return
		}
		defer server.Close()
		look := func() document {
			return program(t, binary, server, "--dsn="+server.DSN("lab"), "--database=lab", "--exclude=setting", "--exclude=leftover")
		}
		if d := look(); d.trouble != "" || len(d.Findings) > 0 {
			t.Fatalf("healthy: %+v", d)
		}
		if err := server.Stop(pgtest.Fast); err != nil {
			t.Fatal(err)
		}
		whole := server.DataDirectory + ".whole"
		putBack(t, server.DataDirectory, whole)
		startAgain(t, server)
		results, try := outcomes{t: t}, chosen()
		for _, name := range clusterFiles(t, server.DataDirectory) {
			for _, b := range pgtest.Breakages() {
				k := kind{area: "cluster", name: name + ", " + b.Name, want: []string{"*"}, harmless: unread.MatchString(name)}
				if !try(k.area + ": " + k.name) {
					continue
				}
				o := outcome{Area: k.area, Name: k.name, Version: major, Checksums: checksums}
				if err := whileBroken(t, server, whole, name, b, func() { o.judge(look(), k) }); err != nil {
					o.Result, o.Findings = "not damaged", []string{err.Error()}
				}
				results.tell(o)
			}
		}
		results.print()
	})
}

// whileBroken breaks a file of a running server, does something, and puts the whole
// cluster back: what has read the damage may have written some of its own.
func whileBroken(t *testing.T, server *pgtest.Server, whole, name string, b pgtest.Breakage, do func()) error {
	t.Helper()
	path := filepath.Join(server.DataDirectory, name)
	if err := b.Do(path); err != nil {
		return err
	}
	if out, err := exec.Command("chown", "--recursive", "--no-dereference", "--reference="+whole, server.DataDirectory).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	do()
	if err := server.Stop(pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
	putBack(t, whole, server.DataDirectory)
	startAgain(t, server)
	return nil
}

// startAgain starts a server and leaves it as one that has worked for a while: WAL is
// behind its last checkpoint.
func startAgain(t *testing.T, server *pgtest.Server) {
	t.Helper()
	if err := server.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.MustExec(t, "lab", "CHECKPOINT; INSERT INTO t SELECT g, 'w' || g FROM generate_series(1001, 1500) g")
}

// putBack makes a directory the copy of another.
func putBack(t *testing.T, whole, directory string) {
	t.Helper()
	if err := os.RemoveAll(directory); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "--archive", whole, directory).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// clusterFiles lists the files that belong to no database, and of the databases the
// maps and versions.
func clusterFiles(t *testing.T, directory string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, directory+"/")
		if !strings.HasPrefix(name, "base/") || strings.HasSuffix(name, "/PG_VERSION") || strings.HasSuffix(name, "/pg_filenode.map") {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
