package web

import (
	"bytes"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
)

// page is a readable frame for a text: dark and light, as wide as a telephone
// allows, no scripts and nothing from elsewhere.
var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{.Title}}</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 0 auto; padding: 1rem; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid; border-radius: .25rem; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
table { border-collapse: collapse; } td, th { border: 1px solid; padding: .25rem .5rem; text-align: left; }
</style>
</head>
<body>
<nav><a href="/">pg_integrity_exporter</a> / <a href="/runbooks/">runbooks</a></nav>
<main>
{{.Body}}
</main>
</body>
</html>
`))

type pageContent struct {
	Title string
	Body  template.HTML
}

// runbooks serves NAME.md as a page at NAME, and their list at the top. The
// texts are the program's own, embedded in it.
func runbooks(files fs.FS) http.Handler {
	markdown := goldmark.New(goldmark.WithExtensions(extension.Table))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		if name == "" {
			show(w, pageContent{Title: "Runbooks", Body: runbookList(files)})
			return
		}
		text, err := fs.ReadFile(files, name+".md")
		if err != nil {
			http.Error(w, "There is no runbook of this name; /runbooks/ lists them.", http.StatusNotFound)
			return
		}
		var body bytes.Buffer
		if err := markdown.Convert(text, &body); err != nil {
			http.Error(w, "The runbook cannot be shown: "+err.Error(), http.StatusInternalServerError)
			return
		}
		show(w, pageContent{Title: name, Body: template.HTML(body.String())}) //nolint:gosec // embedded text
	})
}

func runbookList(files fs.FS) template.HTML {
	names, err := fs.Glob(files, "*.md")
	if err != nil {
		return ""
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString("<h1>Runbooks</h1>\n<ul>\n")
	for _, name := range names {
		name = template.HTMLEscapeString(strings.TrimSuffix(path.Base(name), ".md"))
		b.WriteString(`<li><a href="/runbooks/` + name + `">` + name + "</a></li>\n")
	}
	b.WriteString("</ul>\n")
	return template.HTML(b.String()) //nolint:gosec // escaped above
}

func show(w http.ResponseWriter, content pageContent) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	var out bytes.Buffer
	if err := page.Execute(&out, content); err != nil {
		http.Error(w, "The page cannot be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	// A client that went away needs no answer.
	_, _ = out.WriteTo(w)
}
