package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
)

// Probe is what a request to /probe asks for.
type Probe struct {
	// Target is the name of a configured target, or host:port/database.
	Target string
	// Module and AuthModule name parts of the configuration; empty is the default.
	Module, AuthModule string
}

// ProbeError says why a server is not probed.
type ProbeError struct {
	// Status is the status of the answer.
	Status int
	// Text is for people.
	Text string
}

// Error is the text.
func (e *ProbeError) Error() string { return e.Text }

// probe serves the metrics of one server that the request names.
func probe(options Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), budget(r, options))
		defer cancel()
		query := r.URL.Query()
		page, err := options.Probe(ctx, Probe{Target: query.Get("target"), Module: query.Get("module"), AuthModule: query.Get("auth_module")})
		if refused, ok := errors.AsType[*ProbeError](err); ok {
			http.Error(w, refused.Text, refused.Status)
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer page.Free()
		expose(w, r, options.Logger, page)
	})
}

// targetGroup is one entry of Prometheus' HTTP service discovery.
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// targets lists the configured targets for http_sd_configs: each is scraped at
// /probe and is an instance of its own.
func targets(options Options) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		groups := []targetGroup{}
		for _, name := range options.Targets() {
			groups = append(groups, targetGroup{
				Targets: []string{r.Host},
				Labels:  map[string]string{"__metrics_path__": "/probe", "__param_target": name, "instance": name},
			})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(groups) // a client that went away does not hear the answer
	}
}
