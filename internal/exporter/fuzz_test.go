package exporter

import (
	"log/slog"
	"testing"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/web"
)

// FuzzProbe holds that whatever a request to /probe says, the exporter connects to
// what the configuration allows, or to nothing.
func FuzzProbe(f *testing.F) {
	fleet := config.Default().Get().Fleet
	fleet.Probe.Allow = []string{"*.db.example:5432", "[[]::1]:*"}
	fleet.AuthModules = map[string]config.AuthModule{"a": {Type: "userpass", UserPass: config.UserPass{Username: "u", Password: "p"}}}
	p := newProbes(fleet, Options{Logger: slog.New(slog.DiscardHandler)})
	f.Cleanup(p.close)
	for _, target := range []string{"x.db.example:5432/erp", "x.db.example", "[::1]:1/a", "evil.example:5432", "x.db.example:5432/a?host=evil", "a,b.db.example:5432", "/run/x.db.example:5432"} {
		f.Add(target, "", "a")
	}
	f.Fuzz(func(t *testing.T, target, module, auth string) {
		key, err := p.key(web.Probe{Target: target, Module: module, AuthModule: auth})
		if err != nil {
			return
		}
		if !fleet.Probe.Allows(key.address) {
			t.Errorf("%q leads to %q", target, key.address)
		}
		dsn, err := fleet.AuthModules[key.auth].DSN(key.address, key.database)
		if err != nil {
			t.Fatal(err)
		}
		resolved, err := pg.ResolveTarget(dsn, pg.NoEnvironment)
		if err != nil {
			return // it cannot be connected to at all
		}
		if resolved.Name() != key.address || resolved.Database() != key.database {
			t.Errorf("%q leads to %s, database %q, not to %+v", target, resolved.Name(), resolved.Database(), key)
		}
	})
}
