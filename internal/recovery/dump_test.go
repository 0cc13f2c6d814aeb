package recovery_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// TestDumps reads what the real pg_dump and pg_dumpall write, whole, cut and
// damaged in the middle.
func TestDumps(t *testing.T) {
	t.Parallel()
	dump, all := pgtest.Tool(t, "pg_dump"), pgtest.Tool(t, "pg_dumpall")
	server := pgtest.Start(t, pgtest.Version(pgtest.DebianVersion()))
	server.MustExec(t, "postgres", `CREATE TABLE t AS SELECT i, md5(i::text) AS pad FROM generate_series(1, 20000) i;
		CREATE TABLE u AS SELECT i, md5(i::text) AS pad FROM generate_series(1, 20000) i; SELECT lo_from_bytea(0, '\x616263')`)
	root := pgtest.SharedDirectory(t)
	began := time.Now().Truncate(time.Second)
	for name, line := range map[string][]string{
		"custom": {dump, "--format=custom"}, "custom.raw": {dump, "--format=custom", "--compress=0"}, "directory": {dump, "--format=directory"},
		"tar": {dump, "--format=tar"}, "plain.sql": {dump}, "plain.sql.gz": {dump, "--compress=6"}, "unnamed": {dump, "--compress=6"}, "all.sql": {all},
	} {
		if err := pgtest.Run(line[0], append(line[1:], "--dbname="+server.DSN("postgres"), "--file="+filepath.Join(root, name))...); err != nil {
			t.Fatal(err)
		}
	}
	read := func() map[string]recovery.Backup {
		i := recovery.ReadRepository(t.Context(), recovery.Repository{Name: "dumps", Type: recovery.TypeDump, Path: root})
		if i.Err != nil {
			t.Fatal(i.Err)
		}
		found := make(map[string]recovery.Backup)
		for _, b := range i.Backups {
			found[b.Label] = b
		}
		return found
	}
	whole := read()
	for name, format := range map[string]recovery.DumpFormat{
		"custom": recovery.DumpCustom, "custom.raw": recovery.DumpCustom, "directory": recovery.DumpDirectory, "tar": recovery.DumpTar,
		"plain.sql": recovery.DumpPlain, "plain.sql.gz": recovery.DumpPlain, "unnamed": recovery.DumpPlain, "all.sql": recovery.DumpPlain,
	} {
		b, ok := whole[name]
		if !ok || !b.Usable() || b.Dump != format || b.Kind != recovery.KindLogical || b.Stored < 10_000 || b.Started.Before(began) || b.Finished.Before(b.Started) {
			t.Errorf("%s: %+v", name, b)
		}
		if withHeader := format == recovery.DumpCustom || format == recovery.DumpDirectory; withHeader && b.Major != server.Install.Major {
			t.Errorf("%s: version %d", name, b.Major)
		}
	}
	if len(whole) != 8 {
		t.Errorf("%d dumps", len(whole))
	}
	data, err := filepath.Glob(filepath.Join(root, "directory", "*.dat.gz"))
	if err != nil || len(data) != 3 {
		t.Fatalf("data files %v, %v", data, err)
	}
	damage := func(content []byte) []byte { // in the middle, as a lost sector is
		clear(content[len(content)/2 : len(content)/2+4096])
		return content
	}
	half := func(content []byte) []byte { return content[:len(content)/2] }
	for _, c := range []struct {
		name, dump, file string
		change           func([]byte) []byte
		want             string
	}{
		{"cut", "custom", "custom", half, "it was cut"},
		{"cut", "custom.raw", "custom.raw", half, "it was cut"},
		{"cut", "tar", "tar", half, "it was cut"},
		{"cut", "plain.sql", "plain.sql", half, "it was cut"},
		{"cut", "plain.sql.gz", "plain.sql.gz", half, "it was cut"},
		{"cut", "unnamed", "unnamed", half, "it was cut"},
		{"cut", "directory", "directory/toc.dat", half, "toc.dat was cut or damaged"},
		{"lost", "directory", strings.TrimPrefix(data[0], root), nil, "is missing"},
		{"cut data", "directory", strings.TrimPrefix(data[0], root), half, "cut or damaged"},
		{"damaged", "directory", strings.TrimPrefix(data[0], root), damage, "cut or damaged"},
		{"damaged", "custom", "custom", damage, "damaged"},
		{"damaged", "plain.sql.gz", "plain.sql.gz", damage, "damaged"},
	} {
		path := filepath.Join(root, c.file)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.change == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, c.change(append([]byte(nil), before...)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if b := read()[c.dump]; b.Usable() || !strings.Contains(b.Problems[0].Message, c.want) {
			t.Errorf("%s, %s: %v", c.dump, c.name, b.Problems)
		}
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
