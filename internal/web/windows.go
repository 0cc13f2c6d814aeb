package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"pg_integrity_exporter/internal/maintenance/window"
)

// windowsPath is where maintenance windows are opened, closed and listed.
const windowsPath = "/-/window"

// windows opens (POST), closes (DELETE) and lists (GET) maintenance windows.
func windows(options Options) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		by := ""
		if options.User != nil {
			by = options.User(r)
		}
		if by == "" {
			http.Error(w, "Maintenance windows are opened over HTTP only when --web.config.file asks for a password; use the command `window`.", http.StatusForbidden)
			return
		}
		watched, ok := (&integrity{options: options}).watched(r)
		if !ok {
			http.Error(w, "There is no target of this name; /targets lists them.", http.StatusNotFound)
			return
		}
		files := watched.Files
		switch r.Method {
		case http.MethodGet:
			all, err := window.List(files)
			answer(w, all, err)
		case http.MethodPost:
			length, err := time.ParseDuration(r.FormValue("for"))
			if err != nil || r.FormValue("reason") == "" {
				http.Error(w, "The parameters for (a duration such as 2h) and reason are needed.", http.StatusBadRequest)
				return
			}
			opened, err := window.Open(files, time.Now(), length, r.FormValue("reason"), by, "http")
			answer(w, opened, err)
		case http.MethodDelete:
			closed, err := window.Close(files, time.Now(), r.FormValue("id"), by)
			answer(w, closed, err)
		default:
			w.Header().Set("Allow", "GET, POST, DELETE")
			http.Error(w, "This endpoint knows GET, POST and DELETE.", http.StatusMethodNotAllowed)
		}
	}
}

func answer(w http.ResponseWriter, value any, err error) {
	var missing *window.NotOpenError
	switch {
	case errors.As(err, &missing):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) //nolint:errchkjson // a client that went away does not hear the answer
}
