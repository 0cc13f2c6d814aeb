// Command draw makes pictures of the dashboards with the data of a live
// Prometheus, because Grafana is not always at hand: true enough to judge
// layout, titles, units, colours and legends. It is for developers.
//
//	go run ./tools/draw --prometheus=http://127.0.0.1:9090 --output=docs/pictures [dashboards/NAME.json...]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// columns and cell are Grafana's grid, in pixels for a page of pageWidth.
	columns   = 24
	cell      = 38
	pageWidth = 1440
)

func main() {
	prometheus := flag.String("prometheus", "http://127.0.0.1:9090", "address of Prometheus")
	output := flag.String("output", ".", "directory for the pictures")
	span := flag.Duration("range", 15*time.Minute, "how far back the pictures go")
	suffix := flag.String("suffix", "", "end of the pictures' names, for example -incident")
	flag.Parse()
	if err := draw(context.Background(), *prometheus, *output, *suffix, *span, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "draw:", err)
		os.Exit(1)
	}
}

func draw(ctx context.Context, prometheus, output, suffix string, span time.Duration, files []string) error {
	if len(files) == 0 {
		var err error
		if files, err = filepath.Glob("dashboards/*.json"); err != nil || len(files) == 0 {
			return errors.New("no dashboards here: name their files, or run it at the top of the repository")
		}
	}
	plot, err := exec.CommandContext(ctx, "tools/npm.sh", "uplot").Output()
	if err != nil {
		return fmt.Errorf("fetching uplot: %w", err)
	}
	p := painter{prometheus: prometheus, span: span, now: time.Now(), plot: filepath.Join(strings.TrimSpace(string(plot)), "dist")}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json") + suffix + ".png"
		if err := p.picture(ctx, file, filepath.Join(output, name)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		fmt.Println(filepath.Join(output, name))
	}
	return nil
}

// dashboard is what of Grafana's model matters for a picture.
type dashboard struct {
	Title  string
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct {
			Unit       string
			Thresholds struct {
				Steps []step
			}
			Mappings []struct {
				Options map[string]struct{ Text string }
			}
			Custom struct{ Stacking struct{ Mode string } }
		}
		Overrides []struct {
			Matcher struct{ Options string }
		}
	}
	Options struct{ ColorMode string }
	Targets []struct {
		RefID, Expr, LegendFormat string
		Instant                   bool
	}
	Transformations []transformation
}

type transformation struct {
	Options struct {
		IndexByName  map[string]int
		RenameByName map[string]string
		// ConfigRefID is the query whose result is the threshold.
		ConfigRefID string
	}
}

// step is a colour that holds from a value on.
type step struct {
	Color string
	Value *float64
}

// limits says that the result of a query is the panel's threshold.
func (d panel) limits(refID string) bool {
	return slices.ContainsFunc(d.Transformations, func(t transformation) bool { return t.Options.ConfigRefID == refID })
}

type painter struct {
	prometheus, plot string
	span             time.Duration
	now              time.Time
}

// series is one line of a picture.
type series struct {
	Labels map[string]string
	Legend string
	Dashed bool
	Times  []float64
	Values []float64
}

// view is a panel with its data, for the template.
type view struct {
	Title, Kind, Text, Colour, Unit string
	Left, Top, Width, Height        int
	Series                          []series
	Head                            []string
	Rows                            [][]string
	Stacked                         bool
	Lanes                           []lane
}

// lane is one row of a state timeline, and stretch a part of it in one state,
// in percent of the width.
type (
	lane struct {
		Legend    string
		Stretches []stretch
	}
	stretch struct {
		Left, Width  float64
		Colour, Word string
	}
)

func (p painter) picture(ctx context.Context, file, output string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var d dashboard
	if err := json.Unmarshal(content, &d); err != nil {
		return err
	}
	page := struct {
		Title  string
		Views  []view
		Height int
		// From and To are what every picture shows, whenever its lines begin.
		From, To    int64
		Plot, Style template.URL
	}{Title: d.Title, From: p.now.Add(-p.span).Unix(), To: p.now.Unix(), Plot: template.URL("file://" + p.plot + "/uPlot.iife.min.js"), Style: template.URL("file://" + p.plot + "/uPlot.min.css")}
	for _, panel := range d.Panels {
		v, err := p.view(ctx, panel)
		if err != nil {
			return fmt.Errorf("panel %q: %w", panel.Title, err)
		}
		page.Views = append(page.Views, v)
		page.Height = max(page.Height, v.Top+v.Height+60)
	}
	work, err := os.MkdirTemp("", "draw-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	html, err := os.Create(filepath.Join(work, "page.html"))
	if err != nil {
		return err
	}
	if err := errors.Join(pageTemplate.Execute(html, page), html.Close()); err != nil {
		return err
	}
	output, err = filepath.Abs(output)
	if err != nil {
		return err
	}
	shot := exec.CommandContext(ctx, "chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars", "--allow-file-access-from-files",
		"--virtual-time-budget=5000", fmt.Sprintf("--window-size=%d,%d", pageWidth, page.Height), "--screenshot="+output, "file://"+html.Name())
	if text, err := shot.CombinedOutput(); err != nil {
		return fmt.Errorf("chromium: %w: %s", err, text)
	}
	return nil
}

func (p painter) view(ctx context.Context, d panel) (view, error) {
	g := d.GridPos
	v := view{
		Title: d.Title, Kind: d.Type, Unit: d.FieldConfig.Defaults.Unit, Stacked: d.FieldConfig.Defaults.Custom.Stacking.Mode == "normal",
		Left: g.X * pageWidth / columns, Top: g.Y * cell, Width: g.W*pageWidth/columns - 8, Height: g.H*cell - 8,
	}
	for _, target := range d.Targets {
		found, err := p.query(ctx, target.Expr, target.Instant)
		if err != nil {
			return v, err
		}
		if len(found) > 0 && d.limits(target.RefID) {
			d.FieldConfig.Defaults.Thresholds.Steps = []step{{Color: "green"}, {Color: "red", Value: &found[0].Values[0]}}
			continue
		}
		for _, s := range found {
			s.Legend = legend(target.LegendFormat, s.Labels)
			for _, o := range d.FieldConfig.Overrides {
				s.Dashed = s.Dashed || o.Matcher.Options == target.RefID
			}
			v.Series = append(v.Series, s)
		}
	}
	switch d.Type {
	case "stat":
		v.Text, v.Colour = "No data", "#8e8e8e"
		if len(v.Series) > 0 {
			value := v.Series[0].Values[0]
			v.Text, v.Colour = d.word(value), d.colour(value)
		}
	case "table":
		v.Head, v.Rows = d.table(v.Series)
	case "state-timeline":
		for _, s := range v.Series {
			v.Lanes = append(v.Lanes, lane{s.Legend, p.stretches(d, s)})
		}
		v.Series = nil
	}
	return v, nil
}

// stretches are the states of a series over the time of the picture.
func (p painter) stretches(d panel, s series) []stretch {
	var all []stretch
	from := float64(p.now.Add(-p.span).Unix())
	step := p.step().Seconds()
	for i, value := range s.Values {
		left := 100 * (s.Times[i] - from) / p.span.Seconds()
		width := 100 * step / p.span.Seconds()
		colour, word := d.colour(value), d.word(value)
		if n := len(all) - 1; n >= 0 && all[n].Word == word && left-all[n].Left-all[n].Width < width/2 {
			all[n].Width += width
			continue
		}
		all = append(all, stretch{left, width, colour, word})
	}
	return all
}

// word is what the panel says instead of a value.
func (d panel) word(value float64) string {
	key := strconv.FormatFloat(value, 'f', -1, 64)
	for _, m := range d.FieldConfig.Defaults.Mappings {
		if o, ok := m.Options[key]; ok {
			return o.Text
		}
	}
	return format(value, d.FieldConfig.Defaults.Unit)
}

// step is the distance of two points of a picture.
func (p painter) step() time.Duration { return max(p.span/200, time.Second) }

func (d panel) colour(value float64) string {
	name := "text"
	for _, step := range d.FieldConfig.Defaults.Thresholds.Steps {
		if step.Value == nil || value >= *step.Value {
			name = step.Color
		}
	}
	if d.Options.ColorMode == "none" {
		name = "text"
	}
	return map[string]string{"green": "#299c46", "orange": "#e0752d", "red": "#d44a3a", "text": "#464c54"}[name]
}

// table shows the columns that the panel keeps, in its order.
func (d panel) table(found []series) (head []string, rows [][]string) {
	for _, t := range d.Transformations {
		names := make([]string, len(t.Options.IndexByName))
		for name, i := range t.Options.IndexByName {
			names[i] = name
		}
		if len(names) == 0 {
			continue
		}
		for _, name := range names {
			head = append(head, t.Options.RenameByName[name])
		}
		for _, s := range found {
			var row []string
			for _, name := range names {
				if name == "Value" {
					row = append(row, format(s.Values[0], d.FieldConfig.Defaults.Unit))
				} else {
					row = append(row, s.Labels[name])
				}
			}
			rows = append(rows, row)
		}
	}
	return head, rows
}

// legend fills {{label}} in.
func legend(text string, labels map[string]string) string {
	for name, value := range labels {
		text = strings.ReplaceAll(text, "{{"+name+"}}", value)
	}
	return text
}

// query asks Prometheus for the picture's range, or for now.
func (p painter) query(ctx context.Context, expr string, instant bool) ([]series, error) {
	expr = strings.NewReplacer("$__rate_interval", "1m", "$job", ".+", "$cluster", ".*", "$instance", ".+", "$datname", ".+").Replace(expr)
	form := url.Values{"query": {expr}}
	path := "/api/v1/query"
	if !instant {
		path = "/api/v1/query_range"
		form.Set("start", strconv.FormatInt(p.now.Add(-p.span).Unix(), 10))
		form.Set("end", strconv.FormatInt(p.now.Unix(), 10))
		form.Set("step", strconv.FormatFloat(p.step().Seconds(), 'f', -1, 64))
	} else {
		form.Set("time", strconv.FormatInt(p.now.Unix(), 10))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.prometheus+path+"?"+form.Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, errors.New(answer.Error)
	}
	var found []series
	for _, r := range answer.Data.Result {
		s := series{Labels: r.Metric}
		if r.Values == nil {
			r.Values = [][2]any{r.Value}
		}
		for _, point := range r.Values {
			at, _ := point[0].(float64)
			text, _ := point[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			if err != nil || value != value { // JSON has no NaN
				continue
			}
			s.Times, s.Values = append(s.Times, at), append(s.Values, value)
		}
		if len(s.Values) > 0 {
			found = append(found, s)
		}
	}
	return found, nil
}

// format writes a value in Grafana's unit.
func format(value float64, unit string) string {
	scale := func(base float64, names ...string) string {
		i := 0
		for value >= base && i+1 < len(names) {
			value, i = value/base, i+1
		}
		return strconv.FormatFloat(value, 'f', 1, 64) + " " + names[i]
	}
	switch unit {
	case "percentunit":
		return strconv.FormatFloat(value*100, 'f', 1, 64) + " %"
	case "s":
		return (time.Duration(value*1000) * time.Millisecond).Round(time.Second / 10).String()
	case "bytes":
		return scale(1024, "B", "KiB", "MiB", "GiB", "TiB")
	case "Bps":
		return scale(1000, "B/s", "kB/s", "MB/s", "GB/s")
	case "ops":
		return strconv.FormatFloat(value, 'f', 2, 64) + " ops/s"
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"json": func(v any) (template.JS, error) {
		content, err := json.Marshal(v)
		return template.JS(content), err // our own data
	},
}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title>
<link rel="stylesheet" href="{{.Style}}"><script src="{{.Plot}}"></script>
<style>
body { margin: 0; background: #f4f5f5; color: #24292e; font: 13px/1.4 Inter, system-ui, sans-serif; }
h1 { font-size: 18px; margin: 12px; } main { position: relative; }
.panel { position: absolute; background: #fff; border: 1px solid #e4e7e7; border-radius: 2px; overflow: hidden; padding: 6px; box-sizing: border-box; }
.panel h2 { font-size: 13px; font-weight: 500; margin: 0 0 4px; } .row { background: none; border: 0; font-weight: 600; }
.stat { color: #fff; } .stat p { font-size: 26px; font-weight: 500; text-align: center; margin: 18px 0 0; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: 3px 8px; border-bottom: 1px solid #e4e7e7; white-space: nowrap; }
.lane { display: flex; margin-bottom: 3px; } .lane span { width: 32%; text-align: right; padding-right: 8px; font-size: 11px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.lane div { position: relative; flex: 1; height: 20px; background: #f4f5f5; } .lane i { position: absolute; top: 0; bottom: 0; color: #fff; font: 11px/20px sans-serif; overflow: hidden; text-indent: 4px; }
.none { color: #8e8e8e; text-align: center; margin-top: 40px; } .legend { font-size: 11px; } .legend span { margin-right: 10px; }
</style></head><body><h1>{{.Title}}</h1><main>
{{range $i, $v := .Views}}<section class="panel {{.Kind}}" style="left:{{.Left}}px;top:{{.Top}}px;width:{{.Width}}px;height:{{.Height}}px{{with .Colour}};background:{{.}}{{end}}">
<h2>{{.Title}}</h2>
{{if eq .Kind "stat"}}<p>{{.Text}}</p>
{{else if eq .Kind "table"}}{{if .Rows}}<table><tr>{{range .Head}}<th>{{.}}</th>{{end}}</tr>{{range .Rows}}<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>{{end}}</table>{{else}}<p class="none">No data</p>{{end}}
{{else if eq .Kind "state-timeline"}}{{range .Lanes}}<div class="lane"><span>{{.Legend}}</span><div>{{range .Stretches}}<i title="{{.Word}}" style="left:{{.Left}}%;width:{{.Width}}%;background:{{.Colour}}">{{.Word}}</i>{{end}}</div></div>{{else}}<p class="none">No data</p>{{end}}
{{else if ne .Kind "row"}}{{if .Series}}<div id="p{{$i}}"></div>{{else}}<p class="none">No data</p>{{end}}{{end}}
</section>
{{end}}</main>
<script>
const colours = ['#7eb26d', '#eab839', '#6ed0e0', '#ef843c', '#e24d42', '#1f78c1', '#ba43a9', '#705da0', '#508642', '#cca300'];
const scales = { percentunit: v => +(v * 100).toPrecision(2) + ' %', s: v => v >= 3600 ? (v / 3600).toFixed(1) + ' h' : v >= 60 ? (v / 60).toFixed(0) + ' min' : v.toFixed(2) + ' s',
  bytes: v => v >= 1048576 ? (v / 1048576).toFixed(1) + ' MiB' : v >= 1024 ? (v / 1024).toFixed(0) + ' KiB' : +v.toFixed(1) + ' B', Bps: v => (v / 1e6).toFixed(1) + ' MB/s', ops: v => v.toFixed(1) + '/s' };
({{json .Views}}).forEach((v, i) => {
  const place = document.getElementById('p' + i);
  if (!place) return;
  const times = [...new Set(v.Series.flatMap(s => s.Times))].sort((a, b) => a - b);
  let below = times.map(() => 0);
  const data = v.Series.map(s => { const at = new Map(s.Times.map((t, n) => [t, s.Values[n]])); return times.map(t => at.has(t) ? at.get(t) : null); });
  if (v.Stacked) data.forEach((line, n) => { if (v.Series[n].Dashed) return; below = line.map((y, k) => (y ?? 0) + below[k]); data[n] = below; });
  const colour = (s, n) => s.Dashed ? '#d44a3a' : colours[n % colours.length];
  const order = v.Series.map((s, n) => n); // the stack's top first, so that it does not cover what is below
  if (v.Stacked) order.reverse();
  new uPlot({ width: v.Width - 14, height: v.Height - 60, legend: { show: false }, scales: { x: { range: [{{.From}}, {{.To}}] }, y: { range: (u, lo, hi) => [Math.min(0, lo), hi > 0 ? hi * 1.1 : 1] } },
    axes: [{ values: (u, ticks) => ticks.map(t => new Date(t * 1000).toISOString().slice(11, 19)), space: 60 }, { size: 66, values: (u, ticks) => ticks.map(t => (scales[v.Unit] || (x => String(x)))(t)) }],
    series: [{}].concat(order.map(n => [v.Series[n], n]).map(([s, n]) => ({ label: s.Legend, stroke: colour(s, n), dash: s.Dashed ? [8, 8] : undefined, width: 1.5, fill: s.Dashed ? undefined : colour(s, n) + (v.Stacked ? 'ff' : '22') }))),
  }, [times].concat(order.map(n => data[n])), place);
  const legend = document.createElement('div'); legend.className = 'legend';
  v.Series.forEach((s, n) => { const e = document.createElement('span'); e.textContent = '— ' + s.Legend; e.style.color = colour(s, n); legend.append(e); });
  place.append(legend);
});
</script></body></html>
`))
