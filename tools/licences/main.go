// Command licences prints the licences of everything that is in the program:
// name, version and kind of each module, and behind that the texts, which must
// go wherever the program goes. It fails when a module has none that it knows.
//
//	go run ./tools/licences ./cmd/pg_integrity_exporter
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// module is one module that is in the program.
type module struct{ path, version, directory string }

// text is a file of a licence or a notice.
var text = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)([.-].*)?$`)

// kinds are the licences that may be in the program, by words of their texts.
var kinds = []struct{ name, words string }{
	{"Apache-2.0", "Apache License\n"},
	{"MIT", "Permission is hereby granted, free of charge"},
	{"BSD-3-Clause", "Neither the name of"},
	{"BSD-2-Clause", "Redistributions in binary form"},
	{"ISC", "Permission to use, copy, modify, and/or distribute"},
}

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, packages []string) error {
	modules, err := list(packages)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var texts bytes.Buffer
	for _, m := range modules {
		kind, licence, err := read(m.directory)
		if err != nil {
			return fmt.Errorf("%s: %w", m.path, err)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", m.path, m.version, kind)
		fmt.Fprintf(&texts, "\n%s\n%s %s\n\n%s", strings.Repeat("=", 80), m.path, m.version, licence)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err = texts.WriteTo(out)
	return err
}

// list gives the modules that packages are built from, the standard library
// first.
func list(packages []string) ([]module, error) {
	output, err := exec.Command("go", append([]string{"list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}{{end}}"}, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	root, err := exec.Command("go", "env", "-json", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	var environment struct{ GOROOT string }
	if err := json.Unmarshal(root, &environment); err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	modules := []module{{"the Go standard library", runtime.Version(), environment.GOROOT}}
	lines := strings.Fields(strings.TrimSpace(string(output)))
	for fields := range slices.Chunk(lines, 3) {
		m := module{fields[0], fields[1], fields[2]}
		if !slices.Contains(modules, m) {
			modules = append(modules, m)
		}
	}
	slices.SortFunc(modules[1:], func(a, b module) int { return strings.Compare(a.path, b.path) })
	return modules, nil
}

// read gives the kind of a licence and the texts beside it.
func read(directory string) (kind string, texts []byte, err error) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return "", nil, err
	}
	for _, entry := range entries {
		if entry.IsDir() || !text.MatchString(entry.Name()) || strings.HasSuffix(entry.Name(), ".go") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(directory, entry.Name()))
		if err != nil {
			return "", nil, err
		}
		if kind == "" {
			kind = kindOf(content)
		}
		texts = append(append(texts, content...), '\n')
	}
	switch {
	case texts == nil:
		return "", nil, errors.New("there is no licence in " + directory)
	case kind == "":
		return "", nil, errors.New("the licence is of no kind that is known here: read it, and add it to tools/licences")
	}
	return kind, texts, nil
}

func kindOf(content []byte) string {
	for _, kind := range kinds {
		if bytes.Contains(content, []byte(kind.words)) {
			return kind.name
		}
	}
	return ""
}
