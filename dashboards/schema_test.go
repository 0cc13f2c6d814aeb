package dashboards_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pg_integrity_exporter/dashboards"
)

// schemaHead gives the types of Grafana's model. Its enumerations are strings in
// JSON.
const schemaHead = `import type { Dashboard, Panel, RowPanel, GraphFieldConfig } from '@grafana/schema';
import type { AnnotationTarget } from '@grafana/schema/ANNOTATIONS';
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as Series } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { Options as Timeline, FieldConfig as TimelineField } from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type { Options as Table } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
type Plain<T> = T extends string ? (string extends T ? string : ` + "`${T}`" + `)
	: T extends readonly (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
`

// TestSchema holds every dashboard and the options of every panel against the
// types of Grafana 10, 11 and 12: no field may be missing, unknown, or of
// another type.
func TestSchema(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("PGTEST_REQUIRE") != "" {
			t.Fatal("node is missing: run tools/prepare.sh")
		}
		t.Skip("node is not installed")
	}
	compiler := filepath.Join(npm(t, "typescript"), "lib", "tsc.js")
	for _, grafana := range []string{"10", "11", "12"} {
		t.Run("Grafana "+grafana, func(t *testing.T) {
			t.Parallel()
			work := t.TempDir()
			modules := filepath.Join(work, "node_modules", "@grafana")
			if err := os.MkdirAll(modules, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(npm(t, "grafana-schema-"+grafana), filepath.Join(modules, "schema")); err != nil {
				t.Fatal(err)
			}
			complaints := func(source string) string {
				if err := os.WriteFile(filepath.Join(work, "dashboards.ts"), []byte(source), 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), "node", compiler, "--noEmit", "--strict", "--skipLibCheck", "--preserveSymlinks",
					"--module", "esnext", "--moduleResolution", "node10", "dashboards.ts")
				cmd.Dir = work
				out, err := cmd.CombinedOutput()
				if err != nil && len(out) == 0 {
					t.Fatal(err)
				}
				return string(out)
			}
			annotations := "dist/esm/raw/dashboard/x/dashboard_types.gen"
			if grafana == "12" {
				annotations = "dist/types/raw/dashboard/x/types.gen"
			}
			source := strings.Replace(typed(t), "ANNOTATIONS", annotations, 1)
			if said := complaints(source); said != "" {
				t.Error(said)
			}
			// The comparison must be able to fail.
			spoiled := strings.Replace(source, `"graphMode":"none"`, `"graphMode":"nothing"`, 1)
			spoiled = strings.Replace(spoiled, `"gridPos":`, `"gridPosition":`, 1)
			if said := complaints(spoiled); spoiled == source || !strings.Contains(said, "nothing") || !strings.Contains(said, "gridPosition") {
				t.Errorf("a wrong value and a wrong name are not noticed: %q", said)
			}
		})
	}
}

func npm(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../tools/npm.sh", name).Output()
	if err != nil {
		t.Fatalf("tools/npm.sh %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// object is a JSON object.
type object = map[string]any

// as is a part of a JSON document that must have a type.
func as[T any](t *testing.T, part any) T {
	t.Helper()
	value, ok := part.(T)
	if !ok {
		t.Fatalf("%v is no %T", part, value)
	}
	return value
}

// typed is all dashboards as TypeScript. What belongs to the data source
// Prometheus and not to Grafana's model is left out: queries, and how an
// annotation makes them.
func typed(t *testing.T) string {
	t.Helper()
	source := bytes.NewBufferString(schemaHead)
	count := 0
	declare := func(kind string, value any) {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		count++
		fmt.Fprintf(source, "export const v%d: %s = %s;\n", count, kind, text)
	}
	options := map[string]string{"stat": "Stat", "timeseries": "Series", "state-timeline": "Timeline", "table": "Table"}
	custom := map[string]string{"timeseries": "GraphFieldConfig", "state-timeline": "TimelineField"}
	for _, d := range dashboards.All() {
		content, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var model object
		if err := json.Unmarshal(content, &model); err != nil {
			t.Fatal(err)
		}
		for _, p := range as[[]any](t, model["panels"]) {
			panel := as[object](t, p)
			kind := as[string](t, panel["type"])
			if kind == "row" {
				declare("Plain<RowPanel>", panel)
				continue
			}
			declare("Partial<Plain<"+options[kind]+">>", panel["options"])
			defaults := as[object](t, as[object](t, panel["fieldConfig"])["defaults"])
			if fields, known := custom[kind]; known {
				declare("Partial<Plain<"+fields+">>", defaults["custom"])
			}
			delete(panel, "options")
			delete(panel, "targets")
			delete(defaults, "custom")
			declare("Plain<Panel>", panel)
		}
		model["panels"] = []any{}
		for _, a := range as[[]any](t, as[object](t, model["annotations"])["list"]) {
			if target, tagged := as[object](t, a)["target"]; tagged {
				declare("Plain<AnnotationTarget>", target)
			}
			for _, name := range []string{"expr", "target", "titleFormat", "textFormat", "step", "useValueForTime"} {
				delete(as[object](t, a), name)
			}
		}
		declare("Plain<Dashboard>", model)
	}
	return source.String()
}
