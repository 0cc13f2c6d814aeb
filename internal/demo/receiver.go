package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"
)

// page is what an Alertmanager webhook delivers.
type page struct {
	Status      string            `json:"status"`
	Receiver    string            `json:"receiver"`
	GroupLabels map[string]string `json:"groupLabels"`
	Alerts      []alert           `json:"alerts"`
}

// alert is one alert of a page.
type alert struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// receiver stands for the pager: it takes the notifications of Alertmanager.
type receiver struct {
	server *http.Server
	url    string
	pages  chan page
}

func startReceiver() (*receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for pages: %w", err)
	}
	r := &receiver{url: "http://" + listener.Addr().String(), pages: make(chan page, 100)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{receiver}", func(w http.ResponseWriter, request *http.Request) {
		var p page
		if err := json.NewDecoder(request.Body).Decode(&p); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case r.pages <- p:
		default: // nobody reads any more
		}
	})
	r.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		// It returns when the demo stops.
		_ = r.server.Serve(listener)
	}()
	return r, nil
}

// await waits for a page with an alert of this name.
func (r *receiver) await(ctx context.Context, alertname string) (page, error) {
	for {
		select {
		case p := <-r.pages:
			for _, alert := range p.Alerts {
				if p.Status == "firing" && alert.Labels["alertname"] == alertname {
					return p, nil
				}
			}
		case <-ctx.Done():
			return page{}, fmt.Errorf("no page for %s was delivered: %w", alertname, ctx.Err())
		}
	}
}
