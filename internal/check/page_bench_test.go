package check_test

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// BenchmarkPage reads a database of some 1.3 GB from the page cache with the
// checks page and checksum, and the same files with pg_checksums --check (of another package of
// PostgreSQL 15, when there is one) and with plain reads of 1 MB, as dd does.
func BenchmarkPage(b *testing.B) {
	server := pgtest.Start(b, pgtest.Version(15), pgtest.Checksums())
	server.MustExec(b, "postgres", `CREATE TABLE big (id int, at timestamptz, memo text, amount numeric);
		INSERT INTO big SELECT g, now(), repeat(md5(g::text), 4), g * 1.5 FROM generate_series(1, 6000000) g; CREATE INDEX ON big (id)`)
	server.MustExec(b, "postgres", "VACUUM ANALYZE")
	server.MustExec(b, "postgres", "CHECKPOINT")
	var size, shared int64 // pg_checksums reads the other databases, too
	if err := server.Query(b.Context(), "postgres", "SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE datname <> 'postgres'", &shared); err != nil {
		b.Fatal(err)
	}
	if err := server.Query(b.Context(), "postgres", "SELECT pg_database_size('postgres')", &size); err != nil {
		b.Fatal(err)
	}
	directory := filepath.Dir(server.MustRelation(b, "postgres", "big").Path)
	one := target(b, server.DSN("postgres"))
	sweep := func(b *testing.B, name string) {
		document, err := check.Sweep(b.Context(), one, check.Options{
			Checks: named(b, name), Databases: []string{"postgres"}, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil || document.ExitCode() != check.ExitClean {
			b.Fatal(err, document)
		}
	}
	b.Run("page", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			sweep(b, "page")
		}
	})
	b.Run("checksum", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			sweep(b, "checksum")
		}
	})
	b.Run("dd", func(b *testing.B) {
		b.SetBytes(size)
		buffer := make([]byte, 1<<20)
		for b.Loop() {
			read(b, directory, buffer)
		}
	})
	b.Run("pg_checksums", func(b *testing.B) {
		const program = "/usr/lib/postgresql/15/bin/pg_checksums"
		if _, err := os.Stat(program); err != nil {
			b.Skip(program + " is not installed")
		}
		if err := server.Stop(pgtest.Fast); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(size + shared)
		for b.Loop() {
			if out, err := exec.Command(program, "--check", "--pgdata="+server.DataDirectory).CombinedOutput(); err != nil {
				b.Fatal(err, string(out))
			}
		}
	})
}

// read reads all files of relations in a directory.
func read(b *testing.B, directory string, buffer []byte) {
	b.Helper()
	files, err := os.ReadDir(directory)
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range files {
		file, err := os.Open(filepath.Join(directory, name.Name()))
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = file.Read(buffer)
		}
		if !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
		file.Close()
	}
}
