package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Supported lists the major versions that the exporter supports.
func Supported() []int { return []int{13, 14, 15, 16, 17, 18} }

// Versions lists the major versions that tests shall use: all supported ones,
// or those in the environment variable PGTEST_VERSIONS ("13,18").
func Versions() []int {
	only := os.Getenv("PGTEST_VERSIONS")
	if only == "" {
		return Supported()
	}
	var versions []int
	for field := range strings.SplitSeq(only, ",") {
		if major, err := strconv.Atoi(strings.TrimSpace(field)); err == nil && slices.Contains(Supported(), major) {
			versions = append(versions, major)
		}
	}
	return versions
}

// Newest is the newest of Versions.
func Newest() int { return slices.Max(Versions()) }

// Install is where the programs of one version are.
type Install struct {
	// Major is the major version.
	Major int
	// Version is the whole version, for example "15.18".
	Version string
	// BinDir holds initdb and postgres.
	BinDir string
}

// ErrNotInstalled says that no server of the version was found.
var ErrNotInstalled = errors.New("not installed: run tools/postgres/install.sh, or set PG_BINDIR_<version>")

// Find looks for a server of a major version with the amcheck extension: in
// PG_BINDIR_<major>, PG_BINDIR, the cache of tools/postgres/install.sh,
// /usr/lib/postgresql and PATH, in this order.
func Find(major int) (Install, error) {
	for _, directory := range candidates(major) {
		if install, err := inspect(directory); err == nil && install.Major == major {
			return install, nil
		}
	}
	return Install{}, fmt.Errorf("PostgreSQL %d is %w", major, ErrNotInstalled)
}

// FindAny looks for any supported version, in the order that suits a demo:
// what PG_BINDIR names, then the newest one found.
func FindAny() (Install, error) {
	if install, err := inspect(os.Getenv("PG_BINDIR")); err == nil {
		return install, nil
	}
	supported := Supported()
	slices.Reverse(supported)
	for _, major := range supported {
		if install, err := Find(major); err == nil {
			return install, nil
		}
	}
	return Install{}, fmt.Errorf("PostgreSQL is %w", ErrNotInstalled)
}

// FindWith looks for a server that has more programs than servers need, such as
// pg_dump beside it, as packages of distributions have.
func FindWith(programs ...string) (Install, error) {
	for _, major := range Versions() {
		for _, directory := range candidates(major) {
			missing := func(name string) bool {
				_, err := os.Stat(filepath.Join(directory, name))
				return err != nil
			}
			if install, err := inspect(directory); err == nil && install.Major == major && !slices.ContainsFunc(programs, missing) {
				return install, nil
			}
		}
	}
	return Install{}, fmt.Errorf("%s is %w", strings.Join(programs, ", "), ErrNotInstalled)
}

func candidates(major int) []string {
	version := strconv.Itoa(major)
	directories := []string{os.Getenv("PG_BINDIR_" + version), os.Getenv("PG_BINDIR")}
	directories = append(directories, filepath.Join(Cache(), "postgresql", version, "bin"))
	directories = append(directories, filepath.Join("/usr/lib/postgresql", version, "bin"))
	if program, err := exec.LookPath("postgres"); err == nil {
		if program, err = filepath.EvalSymlinks(program); err == nil {
			directories = append(directories, filepath.Dir(program))
		}
	}
	return directories
}

// Cache is the directory that keeps what tests and tools download or build;
// it is the same as tools/cache.sh prints.
func Cache() string {
	if cache := os.Getenv("PG_INTEGRITY_CACHE"); cache != "" {
		return cache
	}
	if os.Geteuid() == 0 {
		return "/var/cache/pg_integrity_exporter"
	}
	if cache, err := os.UserCacheDir(); err == nil {
		return filepath.Join(cache, "pg_integrity_exporter")
	}
	return filepath.Join(os.TempDir(), "pg_integrity_exporter")
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\.\d+)`)

// inspect asks the programs in a directory for their version.
func inspect(directory string) (Install, error) {
	if directory == "" {
		return Install{}, ErrNotInstalled
	}
	out, err := exec.Command(filepath.Join(directory, "postgres"), "--version").Output()
	if err != nil {
		return Install{}, err
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return Install{}, fmt.Errorf("%s: no version in %q", directory, out)
	}
	if _, err := os.Stat(filepath.Join(directory, "initdb")); err != nil {
		return Install{}, err
	}
	major, err := strconv.Atoi(string(match[2]))
	if err != nil {
		return Install{}, err
	}
	return Install{Major: major, Version: string(match[1]), BinDir: directory}, nil
}

// need finds a version for a test, or skips the test; where PGTEST_REQUIRE is
// set it fails instead.
func need(t testing.TB, major int) Install {
	t.Helper()
	install, err := Find(major)
	if err == nil {
		return install
	}
	if os.Getenv("PGTEST_REQUIRE") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
	return Install{}
}

// Tool finds a program of the system for a test, or skips the test; where
// PGTEST_REQUIRE is set it fails instead.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("PGTEST_REQUIRE") != "" {
		t.Fatal(err)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// DebianVersion is the newest of Versions, but none newer than the programs that
// Debian 12 has for PostgreSQL.
func DebianVersion() int { return min(Newest(), 15) }

// EachVersion runs a test on every version of Versions, in parallel.
func EachVersion(t *testing.T, test func(t *testing.T, major int)) {
	t.Helper()
	for _, major := range Versions() {
		t.Run("pg"+strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			test(t, major)
		})
	}
}

// Turn says that a version's tests go through the n-th of the things that need
// not be tried on every version: each is tried on one, so that together the
// versions try all of them. With PGTEST_LAB=full every version tries everything.
func Turn(n, major int) bool {
	versions := Versions()
	return os.Getenv("PGTEST_LAB") == "full" || versions[n%len(versions)] == major
}
