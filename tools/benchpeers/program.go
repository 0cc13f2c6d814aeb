package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// program is a peer that runs.
type program struct {
	*pgtest.Program

	scratch string
	url     string
	client  *http.Client
}

// launch starts a peer and waits until it answers.
func launch(ctx context.Context, p peer, dsn string) (*program, error) {
	address, err := pgtest.FreeAddress()
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "benchpeers-")
	if err != nil {
		return nil, fmt.Errorf("making a scratch directory: %w", err)
	}
	fill := strings.NewReplacer("{address}", address.String(), "{dsn}", dsn, "{scratch}", scratch)
	var args []string
	for _, arg := range p.command[1:] {
		args = append(args, fill.Replace(arg))
	}
	r := &program{scratch: scratch, url: "http://" + address.String() + "/metrics", client: &http.Client{Timeout: 2 * time.Minute}}
	cmd := exec.Command(p.command[0], args...)
	cmd.Env = append(os.Environ(), "DATA_SOURCE_NAME="+dsn)
	if r.Program, err = pgtest.StartProgram(p.name, filepath.Join(scratch, "output.log"), cmd); err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = r.AwaitAnswer(limited, func() error {
		_, err := r.get(limited, r.url)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// stop ends the program and removes its scratch directory.
func (r *program) stop() error {
	r.Stop()
	return os.RemoveAll(r.scratch)
}

// get scrapes once, as Prometheus does: a kept connection and gzip, undone by
// the client.
func (r *program) get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, response.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	return body, nil
}

// tick is the unit of CPU time in /proc.
const tick = 10 * time.Millisecond

// cpu is the CPU time that a process has used; children says whether that of
// its ended children counts.
func cpu(pid int, children bool) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // it has ended
	}
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	numbers := fields[11:13]
	if children {
		numbers = fields[11:15]
	}
	var ticks int64
	for _, field := range numbers {
		n, err := strconv.ParseInt(field, 10, 64)
		if err == nil {
			ticks += n
		}
	}
	return time.Duration(ticks) * tick
}

// serverCPU is the CPU time of a server and all its processes, ended or not.
func serverCPU(server *pgtest.Server) time.Duration {
	pids := server.Processes()
	total := cpu(pids[0], true)
	for _, pid := range pids[1:] {
		total += cpu(pid, false)
	}
	return total
}

// memory is the resident memory of a process now and at most, in bytes.
func memory(pid int) (now, peak int64) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch {
		case err != nil:
		case name == "VmRSS":
			now = kilobytes << 10
		case name == "VmHWM":
			peak = kilobytes << 10
		}
	}
	return now, peak
}

// load is the load of the machine in the last minute.
func load() float64 {
	content, _ := os.ReadFile("/proc/loadavg") // 0 where there is none
	first, _, _ := strings.Cut(string(content), " ")
	n, _ := strconv.ParseFloat(first, 64)
	return n
}
