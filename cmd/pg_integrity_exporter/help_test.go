package main_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/dashboards"
)

// TestManPage holds that the manual page has every command, and that the program
// that shows such pages has no complaint.
func TestManPage(t *testing.T) {
	t.Parallel()
	page, _, exit := run(t, "--help-man")
	if exit != 0 {
		t.Fatalf("exit code %d", exit)
	}
	for _, want := range []string{
		".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS", ".SH COMMANDS", ".SH \"EXIT STATUS\"", ".SH ENVIRONMENT", ".SH FILES", ".SH EXAMPLES",
		"failed and NOT rolled back", "DATA_SOURCE_NAME", "NO_COLOR", `\-\-output=text`,
	} {
		if !strings.Contains(page, want) && !strings.Contains(page, strings.ReplaceAll(want, `"`, "")) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, name := range []string{"serve", "check", "baseline diff", "guard run", "guard recover", "window open", "drill", "incident report", "config check", "metrics", "alerts export", "dashboards export"} {
		if !strings.Contains(page, `.SS "`+name) {
			t.Errorf("the page lacks the command %s", name)
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("groff is not installed")
	}
	cmd := exec.CommandContext(t.Context(), groff, "-man", "-ww", "-z", "-Tutf8")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

// TestCompletion completes in a real bash, and holds what zsh is told.
func TestCompletion(t *testing.T) {
	t.Parallel()
	bash, _, exit := run(t, "--completion-script-bash")
	if exit != 0 {
		t.Fatalf("exit code %d", exit)
	}
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "completion"), []byte(bash), 0o600); err != nil {
		t.Fatal(err)
	}
	for typed, want := range map[string]string{
		"inci":                        "incident",
		"guard re":                    "resume recover review",
		"check --rel":                 "--relation",
		"check --output j":            "json junit",
		"check --check bt":            "btree",
		"dashboards export --for":     "--format",
		"alerts export --format = ku": "kubernetes",
		"guard --sq":                  "--sql",
	} {
		words := strings.Fields(typed)
		script := `source completion; COMP_WORDS=(pg_integrity_exporter "$@"); COMP_CWORD=$#; _pg_integrity_exporter_complete; echo "${COMPREPLY[*]}"`
		cmd := exec.CommandContext(t.Context(), "bash", append([]string{"-c", script, "bash"}, words...)...)
		cmd.Dir = directory
		cmd.Env = []string{"PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH"), "HOME=/nonexistent"}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %q, want %q (%v)", typed, out, want, err)
		}
	}
	zsh, _, exit := run(t, "--completion-script-zsh")
	if exit != 0 || !strings.HasPrefix(zsh, "#compdef pg_integrity_exporter") {
		t.Fatalf("zsh: exit code %d\n%s", exit, zsh)
	}
	zshCompletes(t, zsh)
}

// zshCompletes types into a real zsh on a terminal of its own, and looks at what
// it makes of it.
func zshCompletes(t *testing.T, function string) {
	t.Helper()
	if _, err := exec.LookPath("zsh"); err != nil {
		if os.Getenv("PGTEST_REQUIRE") != "" {
			t.Fatal("zsh is not installed")
		}
		t.Skip("zsh is not installed")
	}
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "_pg_integrity_exporter"), []byte(function), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "a-file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// What is run says what it was given, so that the answer is the completed line.
	const settings = `PS1= PROMPT_EOL_MARK=
fpath=($ZDOTDIR $fpath)
autoload -Uz compinit; compinit -u -D
pg_integrity_exporter() {
	if [[ $1 == --completion-bash ]]; then command pg_integrity_exporter "$@"; else print -r -- "[[$*]]"; fi
}
print READY
`
	if err := os.WriteFile(filepath.Join(directory, ".zshrc"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	const script = `zmodload zsh/zpty
zpty shell zsh -d -i
zpty -r shell out '*READY*'
for typed in "$@"; do
	zpty -w -n shell "$typed"$'\t\r'
	zpty -r shell out '*\[\[*\]\]*'
	print -r -- "${${out##*\[\[}%%\]\]*}"
done
zpty -d shell`
	typed := []string{"gu", "guard rec", "check --rel", "check --check=bt", "check --output j", "check --output=te", "alerts export --format=ku", "--config.file=a-f"}
	want := []string{"guard", "guard recover", "check --relation", "check --check=btree", "check --output j", "check --output=text", "alerts export --format=kubernetes", "--config.file=a-file"}
	args := []string{"-f", "-c", script, "zsh"}
	for _, words := range typed {
		args = append(args, "pg_integrity_exporter "+words)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "zsh", args...)
	cmd.Dir = directory
	cmd.Env = []string{"PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH"), "HOME=" + directory, "ZDOTDIR=" + directory, "TERM=dumb"}
	out, err := cmd.CombinedOutput()
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("zsh makes of %q (%v)\n%s", typed, err, strings.Join(got, "\n"))
	}
}

// TestDashboardsExport holds what file provisioning and the sidecar take.
func TestDashboardsExport(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "new", "dashboards")
	if _, stderr, exit := run(t, "dashboards", "export", "--output-directory="+directory); exit != 0 {
		t.Fatal(stderr)
	}
	files, err := filepath.Glob(filepath.Join(directory, "*.json"))
	if err != nil || len(files) != len(dashboards.All()) {
		t.Errorf("%v %v", files, err)
	}
	manifest, _, exit := run(t, "dashboards", "export", "--format=configmap")
	const mostOfConfigMap = 1 << 20
	if exit != 0 || len(manifest) >= mostOfConfigMap {
		t.Fatalf("exit code %d, %d bytes", exit, len(manifest))
	}
	var m struct {
		APIVersion, Kind string
		Metadata         struct{ Labels map[string]string }
		Data             map[string]string
	}
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(manifest, "apiVersion:", "apiversion:")), &m); err != nil {
		t.Fatal(err)
	}
	if m.APIVersion != "v1" || m.Kind != "ConfigMap" || m.Metadata.Labels["grafana_dashboard"] != "1" || len(m.Data) != len(files) {
		t.Errorf("%s %s %v, %d files", m.APIVersion, m.Kind, m.Metadata.Labels, len(m.Data))
	}
	for name, content := range m.Data {
		written, err := os.ReadFile(filepath.Join(directory, name))
		if err != nil || content != string(written) || !json.Valid(written) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
	provisioning, err := os.ReadFile("../../deploy/grafana/provisioning.yml")
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Providers []struct{ Type string }
	}
	if err := yaml.Unmarshal(provisioning, &p); err != nil || len(p.Providers) != 1 || p.Providers[0].Type != "file" {
		t.Errorf("%+v %v", p, err)
	}
}
