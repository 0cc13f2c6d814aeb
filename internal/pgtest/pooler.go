package pgtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// StartPooler starts a real PgBouncer before a server, in a pool_mode and with
// further lines of its configuration, and gives the DSN of a database through
// it. It ends with the test. Without PgBouncer the test is skipped, unless
// everything is required.
func StartPooler(t testing.TB, server *Server, mode, role string, lines ...string) (dsn func(database string) string) {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		if os.Getenv("PGTEST_REQUIRE") != "" {
			t.Fatal("pgbouncer is missing: run tools/prepare.sh")
		}
		t.Skip("pgbouncer is not installed")
	}
	address, err := FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	directory, err := os.MkdirTemp("", "pgbouncer-") //nolint:usetesting // those who run PgBouncer must get through the directories above it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	settings := append([]string{
		"[databases]", "* = host=127.0.0.1 port=" + strconv.Itoa(server.Port), "[pgbouncer]", "listen_addr = 127.0.0.1",
		"listen_port = " + strconv.Itoa(address.Port), "unix_socket_dir = ", "auth_type = trust", "auth_file = " + filepath.Join(directory, "users"),
		"pool_mode = " + mode, "default_pool_size = 2",
	}, lines...)
	err = errors.Join(
		os.Chmod(directory, 0o755),
		os.WriteFile(filepath.Join(directory, "users"), []byte(`"`+superuser+`" ""`+"\n"+`"`+role+`" ""`+"\n"), 0o644),
		os.WriteFile(filepath.Join(directory, "pgbouncer.ini"), []byte(strings.Join(settings, "\n")+"\n"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(directory, "output.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := command(syscall.SIGKILL, program, filepath.Join(directory, "pgbouncer.ini"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
		if content, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("output of PgBouncer:\n%s", content)
		}
		_ = out.Close()
	})
	Await(t, "listening", 10*time.Second, func() bool {
		conn, err := net.Dial("tcp", address.String())
		return err == nil && conn.Close() == nil
	})
	return func(database string) string {
		return fmt.Sprintf("postgresql://%s@%s/%s?sslmode=disable", role, address, database)
	}
}
