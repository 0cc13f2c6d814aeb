package pg_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pg"
)

// TestResolveTarget holds which source of a DSN wins, and that the password is
// in no name and no error.
func TestResolveTarget(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("hid/den@\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dsn  string
		env  map[string]string
		want string // the target's name, or a part of the error
		fail bool
	}{
		"URL":                {dsn: "postgresql://u:hidden@db.example:5433/erp", want: "db.example:5433"},
		"keywords":           {dsn: "host=db.example user=u password=hidden dbname=erp", want: "db.example:5432"},
		"the flag wins":      {dsn: "host=a user=u", env: map[string]string{"DATA_SOURCE_NAME": "host=b user=u"}, want: "a:5432"},
		"DATA_SOURCE_NAME":   {env: map[string]string{"DATA_SOURCE_NAME": "postgresql://u:hidden@b/x", "DATA_SOURCE_URI": "c/x"}, want: "b:5432"},
		"DATA_SOURCE_URI":    {env: map[string]string{"DATA_SOURCE_URI": "c:5434/x?sslmode=disable", "DATA_SOURCE_USER": "u", "DATA_SOURCE_PASS": "hid:den/"}, want: "c:5434"},
		"password in a file": {env: map[string]string{"DATA_SOURCE_URI": "c/x", "DATA_SOURCE_USER": "u", "DATA_SOURCE_PASS_FILE": secret}, want: "c:5432"},
		"no such file":       {env: map[string]string{"DATA_SOURCE_URI": "c/x", "DATA_SOURCE_USER": "u", "DATA_SOURCE_PASS_FILE": "/nowhere"}, want: "/nowhere", fail: true},
		"not a DSN":          {dsn: "postgresql://u:hidden@host:port/x", want: "postgresql://user@host:5432/database", fail: true},
		"unknown keyword":    {dsn: "host=a password='hidden", want: "DSN", fail: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, err := pg.ResolveTarget(c.dsn, func(key string) (string, bool) {
				value, ok := c.env[key]
				return value, ok
			})
			var got string
			switch {
			case c.fail && err == nil:
				t.Fatal("no error")
			case c.fail:
				got = err.Error()
			case err != nil:
				t.Fatal(err)
			default:
				got = target.Name()
			}
			if !strings.Contains(got, c.want) || (!c.fail && got != c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			if strings.Contains(got, "hid") {
				t.Errorf("the password is told: %s", got)
			}
		})
	}
}
