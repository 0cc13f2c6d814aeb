package secret_test

import (
	"testing"

	"pg_integrity_exporter/internal/secret"
)

func TestMask(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"host=db password=hidden user=u":                             "host=db password=*** user=u",
		"host=db password = 'hid den' user=u":                        "host=db password = *** user=u",
		"ALTER ROLE a PASSWORD 'hidden' VALID UNTIL 'tomorrow'":      "ALTER ROLE a PASSWORD *** VALID UNTIL 'tomorrow'",
		"CREATE USER MAPPING FOR a OPTIONS (user 'a', password 'hid": "CREATE USER MAPPING FOR a OPTIONS (user 'a', password ***",
		"postgresql://u:hid/d@en@db.example:5432/x?sslmode=require":  "postgresql://u:***@db.example:5432/x?sslmode=require",
		"primary_conninfo=postgres://u:hidden@h/x wal_level=replica": "primary_conninfo=postgres://u:***@h/x wal_level=replica",
		`hostssl all all ldap ldapbindpasswd="hidden" ldaptls=1`:     `hostssl all all ldap ldapbindpasswd=*** ldaptls=1`,
		"postgresql://u@db.example:5432/x":                           "postgresql://u@db.example:5432/x",
		"password authentication failed for user \"a\"":              "password authentication failed for user \"a\"",
		"VACUUM FULL ledger.entries":                                 "VACUUM FULL ledger.entries",
	} {
		if got := secret.Mask(text); got != want {
			t.Errorf("%s\n is %s\nnot %s", text, got, want)
		}
	}
}
