package conf

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestPlace follows links as the server does, whose root directory may be another one.
func TestPlace(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, directory := range []string{"etc/ssl", "data"} {
		if err := os.MkdirAll(filepath.Join(root, directory), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"certs": "/etc/ssl", "etc/ssl/absolute": "/etc/ssl/key", "etc/ssl/relative": "../ssl/key", "etc/ssl/up": "../../../../etc/ssl/key", "etc/ssl/loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	p := Place{Root: root, Data: "/data"}
	for name, want := range map[string]string{
		"/certs/absolute": "/etc/ssl/key", "/certs/relative": "/etc/ssl/key", "/etc/ssl/up": "/etc/ssl/key", "server.key": "/data/server.key",
		"../certs/absolute": "/etc/ssl/key", "/certs/loop": "/etc/ssl/loop", "/nowhere/at/all": "/nowhere/at/all",
	} {
		if got := p.of(name); got != root+want {
			t.Errorf("%s is at %s, want %s", name, got, root+want)
		}
	}
	if got := (Place{Data: "/data"}).of("server.key"); got != "/data/server.key" {
		t.Errorf("server.key is at %s", got)
	}
}

// TestLibraries finds libraries as the server does, and those that it will not find.
func TestLibraries(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, content := range map[string]string{
		"opt/pg/bin/postgres": "", "opt/pg/lib/plpgsql.so": "\x7fELF", "opt/pg/lib/good.so": "\x7fELF and more", "opt/pg/lib/empty.so": "", "opt/pg/lib/text.so": "text", "opt/more/extra.so": "\x7fELF",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for value, want := range map[string][]string{
		"":                                   nil,
		"good":                               nil,
		` "good" , $libdir/good,good.so`:     nil,
		"/opt/more/extra,/opt/more/extra.so": nil,
		"extra":                              nil,
		"good, gone":                         {"shared_preload_libraries names gone, which is not there (looked for at /opt/pg/lib/gone, /opt/more/gone)"},
		"empty,text": {
			"the library empty of shared_preload_libraries is no library (looked for at /opt/pg/lib/empty, /opt/more/empty)",
			"the library text of shared_preload_libraries is no library (looked for at /opt/pg/lib/text, /opt/more/text)",
		},
	} {
		start := Start{Value: func(name, _ string) string {
			return map[string]string{"shared_preload_libraries": value, "dynamic_library_path": "$libdir:/opt/more"}[name]
		}}
		var got []string
		for _, m := range start.Libraries(Place{Root: root, Data: "/data", Program: "/opt/pg/bin/postgres"}) {
			got = append(got, m.Text)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
		if start.Libraries(Place{Root: root, Data: "/data", Program: "/usr/bin/postgres"}) != nil {
			t.Errorf("%q: judged without knowing where libraries are", value)
		}
	}
}
