package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/state"
)

//go:embed pages
var pages embed.FS

// maxNote bounds the note of an acknowledgement, in bytes.
const maxNote = 500

// maxForm bounds a request, in bytes: the fingerprints of all findings of one
// object are in it.
const maxForm = 1 << 18

// integrity serves the integrity page: for people as HTML, for programs as JSON
// by Accept. Its actions need an authenticated user.
type integrity struct {
	options  Options
	template *template.Template
	style    []byte
	// version changes the address of the style with its content.
	version string
}

func newIntegrity(options Options) (*integrity, error) {
	style, err := pages.ReadFile("pages/integrity.css")
	if err != nil {
		return nil, fmt.Errorf("opening the embedded style: %w", err)
	}
	sum := sha256.Sum256(style)
	i := &integrity{options: options, style: style, version: hex.EncodeToString(sum[:6])}
	i.template, err = template.New("integrity.html").Funcs(template.FuncMap{
		"ago":      ago,
		"span":     span,
		"count":    count,
		"moment":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") },
		"machine":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"seconds":  func(s float64) string { return span(time.Duration(s * float64(time.Second))) },
		"percent":  func(ratio float64) string { return fmt.Sprintf("%.0f %%", ratio*100) },
		"kind":     func(k state.EventKind) string { return strings.ReplaceAll(string(k), "_", " ") },
		"class":    func(c check.Class) string { return strings.ReplaceAll(string(c), "_", " ") },
		"join":     func(list []string) string { return strings.Join(list, ", ") },
		"database": func(name string) string { return visible(orServer(name)) },
		"visible":  visible,
		"word":     coverageWord,
	}).ParseFS(pages, "pages/integrity.html")
	if err != nil {
		return nil, fmt.Errorf("reading the embedded page: %w", err)
	}
	return i, nil
}

// orServer is a database's name, or what stands for the whole server.
func orServer(database string) string {
	if database == "" {
		return "the whole server"
	}
	return database
}

// register adds the pages to a mux.
func (i *integrity) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /integrity", i.show)
	mux.HandleFunc("GET /integrity/style.css", i.serveStyle)
	mux.Handle("POST /integrity/run", i.action(i.run))
	mux.Handle("POST /integrity/acknowledge", i.action(i.acknowledge))
}

// shown is what the template gets.
type shown struct {
	View

	Now     time.Time
	Version string
	// Database is the one that was chosen; empty is all.
	Database string
	Map      matrix
	// Chosen are the checks that the page tells the history of, and MoreChecks
	// counts the others.
	Chosen     []CheckView
	MoreChecks int
	// Groups are the objects with findings, Listed those of which only the name is
	// shown, and MoreGroups counts the others.
	Groups, Listed []*groupView
	MoreGroups     int
	// Missed are the reasons for which checks could not look, and MoreMissed
	// counts the others.
	Missed     []problemGroup
	MoreMissed int
	// MoreRelations counts the relations that are left out.
	MoreRelations int
	// User is who may act; empty is nobody.
	User string
	// Targets are all targets when there are several.
	Targets []string
	// Done says what an action did.
	Done string
}

func (i *integrity) show(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	watched, ok := i.watched(r)
	if !ok {
		http.Error(w, "There is no target of this name; /targets lists them.", http.StatusNotFound)
		return
	}
	database := r.FormValue("database")
	view, err := look(watched, database, now)
	if err != nil {
		http.Error(w, "The state cannot be read: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "no-store")
	if wantsJSON(r) {
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(view) //nolint:errchkjson // a client that went away needs no answer
		return
	}
	var out bytes.Buffer
	page := shown{View: view, Now: now, Version: i.version, Database: database, User: i.user(r), Targets: i.targets(), Done: done(r.URL.Query().Get("done"))}
	page.bound()
	if err := i.template.Execute(&out, page); err != nil {
		http.Error(w, "The page cannot be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	_, _ = out.WriteTo(w)
}

// bound chooses what the page shows of much.
func (s *shown) bound() {
	s.Map = coverageMap(s.Checks, s.Database)
	s.Chosen, s.MoreChecks = chosenChecks(s.Checks, s.Database)
	s.Missed, s.MoreMissed = problemGroups(s.Problems)
	shown := min(len(s.groups), shownGroups)
	listed := min(len(s.groups), shownGroups+listedGroups)
	s.Groups, s.Listed, s.MoreGroups = s.groups[:shown], s.groups[shown:listed], len(s.groups)-listed
	if s.MoreRelations = max(len(s.Relations)-shownRelations, 0); s.MoreRelations > 0 {
		s.Relations = s.Relations[:shownRelations]
	}
}

// targets lists the targets when there are several to choose from.
func (i *integrity) targets() []string {
	if i.options.Targets == nil {
		return nil
	}
	if names := i.options.Targets(); len(names) > 1 {
		return names
	}
	return nil
}

// watched is the target that a request is about: the one that it names, or the
// first.
func (i *integrity) watched(r *http.Request) (Watched, bool) {
	name := r.FormValue("target")
	if name == "" || i.options.WatchedTarget == nil {
		return i.options.Watched(), true
	}
	return i.options.WatchedTarget(name)
}

// done is the sentence of an action; an unknown one is nothing, so that a link
// cannot put words on the page.
func done(action string) string {
	return map[string]string{
		"run": "The check runs next; reload the page to see how it ended.", "acknowledged": "Acknowledged. It mutes nothing: the alert stays until the finding clears.",
	}[action]
}

// wantsJSON says that the client prefers JSON to a page.
func wantsJSON(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		switch kind, _, _ := strings.Cut(strings.TrimSpace(part), ";"); kind {
		case "application/json":
			return true
		case "text/html", "*/*":
			return false
		}
	}
	return false
}

func (i *integrity) serveStyle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, _ = w.Write(i.style)
}

// user is the authenticated user of a request; empty when there is none,
// because the exporter runs without authentication.
func (i *integrity) user(r *http.Request) string {
	if i.options.User == nil {
		return ""
	}
	return i.options.User(r)
}

// action does something for an authenticated user and goes back to the page.
func (i *integrity) action(do func(r *http.Request, user string) (done string, status int, err error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := i.user(r)
		if user == "" {
			http.Error(w, "Actions need a user who has logged in: set basic_auth_users or client certificates in the file of --web.config.file.", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		done, status, err := do(r, user)
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		query := url.Values{"done": {done}}
		if target := r.FormValue("target"); target != "" {
			query.Set("target", target)
		}
		http.Redirect(w, r, "/integrity?"+query.Encode(), http.StatusSeeOther)
	})
}

func (i *integrity) run(r *http.Request, user string) (string, int, error) {
	name, database := r.PostFormValue("check"), r.PostFormValue("database")
	watched, ok := i.watched(r)
	if !ok || !watched.RunNow(name, database) {
		return "", http.StatusNotFound, fmt.Errorf("there is no check %q in %s", name, orServer(database))
	}
	i.options.Logger.Info("check asked for", "check", name, "datname", database, "user", user)
	return "run", 0, nil
}

func (i *integrity) acknowledge(r *http.Request, user string) (string, int, error) {
	watched, ok := i.watched(r)
	if !ok {
		return "", http.StatusNotFound, errors.New("there is no target of this name")
	}
	note := r.PostFormValue("note")
	if len(note) > maxNote {
		return "", http.StatusBadRequest, fmt.Errorf("the note has more than %d bytes", maxNote)
	}
	open := make(map[string]state.Finding)
	for _, f := range watched.Snapshot.Findings {
		open[f.Fingerprint] = f
	}
	now := time.Now().UTC()
	objects := make(map[string]check.Finding)
	for _, fingerprint := range r.PostForm["fingerprint"] {
		f, found := open[fingerprint]
		if !found {
			continue // it has cleared since the page was shown
		}
		if err := watched.Files.Put(acknowledgements, fingerprint, Acknowledgement{By: user, When: now, Note: note}); err != nil {
			return "", http.StatusInternalServerError, err
		}
		objects[objectOf(f.Finding)] = f.Finding
	}
	if len(objects) == 0 {
		return "", http.StatusNotFound, fmt.Errorf("there is no open finding %q: it may have cleared", r.PostFormValue("fingerprint"))
	}
	for _, f := range objects {
		err := watched.Files.Record(state.Event{
			Time: now, Kind: state.EventAcknowledged, Severity: f.Severity, Database: f.Database, Schema: f.Schema, Relation: f.Relation,
			Message: "acknowledged by " + user, Source: "integrity page", Details: map[string]string{"fingerprint": f.Fingerprint, "note": note},
		})
		if err != nil {
			return "", http.StatusInternalServerError, err
		}
	}
	return "acknowledged", 0, nil
}
