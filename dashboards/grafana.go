package dashboards

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	// uidPrefix starts every UID; the links between dashboards rely on it.
	uidPrefix = "postgres-integrity-"
	// tag finds the dashboards of the exporter among others.
	tag = "postgres-integrity"
	// schemaVersion is that of Grafana 10; newer ones migrate it.
	schemaVersion = 39
)

// object is a JSON object; Grafana's model has far more fields than are worth a
// type.
type object map[string]any

var datasource = object{"type": "prometheus", "uid": "${datasource}"}

// JSON is the dashboard as Grafana imports it from a file, by provisioning or
// from a ConfigMap.
func (d Dashboard) JSON() ([]byte, error) {
	model := object{
		"uid": uidPrefix + d.Name, "title": d.Title, "description": d.Description, "tags": []string{"postgresql", tag},
		"schemaVersion": schemaVersion, "version": 1, "editable": false, "graphTooltip": 1, "timezone": "utc", "refresh": "30s",
		"time":       object{"from": "now-6h", "to": "now"},
		"timepicker": object{}, "fiscalYearStartMonth": 0, "liveNow": false, "weekStart": "",
		"links": []object{{
			"type": "dashboards", "title": "Integrity dashboards", "tags": []string{tag}, "asDropdown": false, "keepTime": true,
			"includeVars": true, "targetBlank": false, "icon": "external link", "tooltip": "", "url": "",
		}},
		"annotations": object{"list": annotations()},
		"templating":  object{"list": variables()},
		"panels":      d.panels(),
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(model); err != nil {
		return nil, fmt.Errorf("writing the dashboard %s: %w", d.Name, err)
	}
	return out.Bytes(), nil
}

func variables() []object {
	list := []object{{
		"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0,
		"includeAll": false, "multi": false, "options": []object{}, "refresh": 1, "regex": "",
	}}
	for _, v := range []struct{ name, label, query, all string }{
		{"job", "Job", "label_values(pgintegrity_up, job)", ".+"},
		{"cluster", "Cluster", `label_values(pgintegrity_up{job=~"$job"}, cluster)`, ".*"},
		{"instance", "Instance", `label_values(pgintegrity_up{job=~"$job",cluster=~"$cluster"}, instance)`, ".+"},
		{"datname", "Database", `label_values(pgintegrity_transactions_total{job=~"$job",cluster=~"$cluster",instance=~"$instance"}, datname)`, ".+"},
	} {
		list = append(list, object{
			"name": v.name, "label": v.label, "type": "query", "datasource": datasource,
			"query": object{"query": v.query, "refId": "v"}, "refresh": 2, "sort": 1,
			"multi": true, "includeAll": true, "allValue": v.all, "hide": 0, "options": []object{}, "regex": "",
			"current": object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}},
		})
	}
	return list
}

// annotations mark what explains a change in a picture.
func annotations() []object {
	grafana := object{"type": "grafana", "uid": "-- Grafana --"}
	list := []object{
		{
			"name": "Annotations & Alerts", "builtIn": 1, "enable": true, "hide": true, "iconColor": "rgba(0, 211, 255, 1)", "type": "dashboard",
			"datasource": grafana,
		},
		{ // what a pipeline posts to Grafana's API with this tag
			"name": "Deploys", "enable": true, "hide": false, "iconColor": "green", "datasource": grafana,
			"target": object{"limit": 100, "matchAny": true, "tags": []string{"deploy"}, "type": "tags"},
		},
	}
	for _, a := range marks() {
		list = append(list, object{
			"name": a.name, "enable": true, "hide": false, "iconColor": a.colour, "datasource": datasource, "expr": a.expr,
			"titleFormat": a.title, "textFormat": a.text, "step": "30s", "useValueForTime": false,
		})
	}
	return list
}

// mark is a query whose results are marked in every picture. sparse says why it
// may have none, as that of a panel.
type mark struct{ name, colour, expr, title, text, sparse string }

func marks() []mark {
	return []mark{
		{"Integrity alerts", "red", `ALERTS{alertstate="firing",layer="integrity",severity="critical",job=~"$job",cluster=~"$cluster",instance=~"$instance"}`, "{{alertname}}", "{{instance}} {{datname}} {{schemaname}}.{{relname}}", ""},
		{"Findings", "light-red", "sum by (instance, check, severity) (pgintegrity_check_findings" + of() + " - pgintegrity_check_findings" + of() + " offset 1m) > 0", "{{severity}} finding", "{{check}} on {{instance}}", ""},
		{"Server restarts", "orange", "changes(pgintegrity_postmaster_start_timestamp_seconds" + of() + "[2m]) > 0", "restart", "{{instance}} started", "the server was not restarted"},
		{"Settings reloaded", "blue", "changes(pgintegrity_conf_load_timestamp_seconds" + of() + "[2m]) > 0", "settings", "{{instance}} read its settings again", "nobody changed settings"},
		{"Schema changes", "green", "sum by (instance, kind) (increase(pgintegrity_maintenance_operations_total" + of(`kind=~"alter_table|create_index|disabled_trigger|drop|extension|truncate|upgrade"`) + "[2m])) > 0", "schema change", "{{kind}} on {{instance}}", "nobody changed the schema"},
		{"Maintenance windows", "purple", "pgintegrity_maintenance_window_active" + of() + " > 0", "window", "{{instance}} is in a maintenance window", ""},
	}
}

// description ends with what an empty panel means.
func (p Panel) description() string {
	if empty := cmp.Or(p.Sparse, p.Quiet); empty != "" {
		return p.Description + " No data: " + empty + "."
	}
	return p.Description
}

// panels lays the rows out. A panel that does not fit beside the others goes
// under them.
func (d Dashboard) panels() []object {
	var list []object
	id, top := 0, 0
	add := func(o object, x, y, w, h int) {
		id++
		o["id"], o["gridPos"] = id, object{"x": x, "y": y, "w": w, "h": h}
		list = append(list, o)
	}
	for _, row := range d.Rows {
		add(object{"type": "row", "title": row.Title, "collapsed": false, "panels": []object{}}, 0, top, 24, 1)
		top++
		x, height := 0, 0
		for _, p := range row.Panels {
			if x+p.Width > 24 {
				x, top, height = 0, top+height, 0
			}
			add(p.model(), x, top, p.Width, p.Height)
			x, height = x+p.Width, max(height, p.Height)
		}
		top += height
	}
	return list
}

func (p Panel) model() object {
	defaults := object{
		"unit": p.Unit, "mappings": p.mappings(), "thresholds": object{"mode": "absolute", "steps": p.steps()},
		"color": object{"mode": "thresholds"}, "custom": object{},
	}
	var options object
	overrides := []object{}
	switch p.Kind {
	case Stat:
		colour := "background"
		if p.Plain {
			colour = "none"
		}
		options = object{
			"colorMode": colour, "graphMode": "none", "textMode": "auto", "justifyMode": "auto", "orientation": "auto",
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		}
		if p.Unit == "short" {
			defaults["decimals"] = 0
		}
	case Series:
		stacking := object{"mode": "none", "group": "A"}
		fill := 10
		if p.Stack {
			stacking["mode"], fill = "normal", 40
		}
		defaults["color"] = object{"mode": "palette-classic"}
		defaults["min"] = 0
		defaults["custom"] = object{
			"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": fill, "showPoints": "never",
			"spanNulls": false, "stacking": stacking, "axisPlacement": "auto", "thresholdsStyle": object{"mode": "off"},
		}
		options = object{
			"legend":  object{"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []string{}},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
		for i, t := range p.Queries {
			if t.Objective {
				overrides = append(overrides, object{"matcher": object{"id": "byFrameRefID", "options": refID(i)}, "properties": []object{
					{"id": "custom.lineStyle", "value": object{"fill": "dash", "dash": []int{10, 10}}},
					{"id": "custom.fillOpacity", "value": 0},
					{"id": "color", "value": object{"mode": "fixed", "fixedColor": "red"}},
				}})
			}
		}
	case Timeline:
		defaults["custom"] = object{"fillOpacity": 80, "lineWidth": 0}
		options = object{
			"mergeValues": true, "showValue": "never", "alignValue": "left", "rowHeight": 0.8,
			"legend": object{"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []string{}}, "tooltip": object{"mode": "single", "sort": "none"},
		}
	case Table:
		options = object{"showHeader": true, "cellHeight": "sm"}
	}
	model := object{
		"type": p.Kind, "title": p.Title, "description": p.description(), "datasource": datasource, "transparent": false,
		"fieldConfig": object{"defaults": defaults, "overrides": overrides}, "options": options, "targets": p.targets(),
	}
	switch p.Kind {
	case Table:
		model["transformations"] = p.transformations()
	case Stat:
		if n := slices.IndexFunc(p.Queries, func(t Target) bool { return t.Objective }); n >= 0 {
			model["transformations"] = []object{thresholdFrom(refID(n))}
		}
	case Series, Timeline:
	}
	return model
}

// thresholdFrom makes the result of a query the value from which on a Stat is
// red. Grafana calls the field by its legend or, without one, Value. When the
// query gives nothing, the thresholds of the panel hold.
func thresholdFrom(ref string) object {
	red := object{"threshold": object{"color": "red"}}
	return object{"id": "configFromData", "options": object{
		"configRefId": ref,
		"mappings": []object{
			{"fieldName": objectiveLegend, "handlerKey": "threshold1", "handlerArguments": red},
			{"fieldName": "Value", "handlerKey": "threshold1", "handlerArguments": red},
		},
	}}
}

func refID(i int) string { return string(rune('A' + i)) }

func (p Panel) targets() []object {
	var list []object
	for i, t := range p.Queries {
		target := object{
			"refId": refID(i), "datasource": datasource, "expr": t.Expr, "legendFormat": t.Legend, "editorMode": "code",
			"instant": p.instant(), "range": !p.instant(), "format": "time_series",
		}
		if p.Kind == Table {
			target["format"] = "table"
		}
		list = append(list, target)
	}
	return list
}

func (p Panel) instant() bool { return p.Kind == Stat || p.Kind == Table }

func (p Panel) steps() []object {
	if p.Plain || p.Kind == Series || p.Kind == Table && p.Bad == 0 && p.Worse == 0 {
		return []object{{"color": "text", "value": nil}}
	}
	if p.Low {
		return []object{{"color": "red", "value": nil}, {"color": "orange", "value": p.Worse}, {"color": "green", "value": p.Bad}}
	}
	steps := []object{{"color": "green", "value": nil}}
	if p.Bad != 0 && p.Bad != p.Worse {
		steps = append(steps, object{"color": "orange", "value": p.Bad})
	}
	if p.Worse != 0 {
		steps = append(steps, object{"color": "red", "value": p.Worse})
	}
	return steps
}

func (p Panel) mappings() []object {
	if len(p.Words) == 0 {
		return []object{}
	}
	words := object{}
	for i, value := range slices.Sorted(maps.Keys(p.Words)) {
		words[value] = object{"text": p.Words[value], "index": i}
	}
	return []object{{"type": "value", "options": words}}
}

// transformations keep the columns of a table and name them.
func (p Panel) transformations() []object {
	order, names, keep := object{}, object{}, []string{}
	for i, column := range p.Columns {
		label, heading, _ := strings.Cut(column, "=")
		order[label], names[label] = i, heading
		keep = append(keep, label)
	}
	return []object{
		{"id": "filterFieldsByName", "options": object{"include": object{"names": keep}}},
		{"id": "organize", "options": object{"indexByName": order, "renameByName": names, "excludeByName": object{}}},
	}
}
