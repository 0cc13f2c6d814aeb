package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// start starts a program in the scratch folder, and waits until it answers at
// url.
func (d *demo) start(ctx context.Context, url, name, program string, args []string, environment ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Dir = d.scratch
	cmd.Env = append(os.Environ(), environment...)
	p, err := pgtest.StartProgram(name, d.path(name+".log"), cmd)
	if err != nil {
		return err
	}
	d.processes = append(d.processes, p)
	return p.AwaitAnswer(ctx, func() error {
		_, err := get(ctx, url)
		return err
	})
}

// get fetches a URL and fails for any answer but 200.
func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	err = errors.Join(err, response.Body.Close())
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return body, nil
}
