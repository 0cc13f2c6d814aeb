package main

import (
	"bufio"
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
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

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
		return r.get(limited, r.url, scraped)
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

// answer is what one scrape reads, into memory that is used again.
type answer struct {
	body bytes.Buffer
	gzip gzip.Reader
}

var answers = sync.Pool{New: func() any { return new(answer) }}

// get scrapes once, as Prometheus does: a kept connection, and gzip, which it undoes
// with the same library into memory that it has. The body is for use alone; took is
// how long it took to have it.
func (r *program) get(ctx context.Context, url string, use func(body []byte, took time.Duration)) error {
	started := time.Now()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	a := answers.Get().(*answer) //nolint:forcetypeassert // the pool holds nothing else
	defer answers.Put(a)
	err = a.read(response)
	took := time.Since(started)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", url, response.Status, strings.TrimSpace(a.body.String()))
	}
	use(a.body.Bytes(), took)
	return nil
}

func (a *answer) read(response *http.Response) (err error) {
	a.body.Reset()
	content := io.Reader(response.Body)
	if response.Header.Get("Content-Encoding") == "gzip" {
		if err := a.gzip.Reset(bufio.NewReader(response.Body)); err != nil {
			return fmt.Errorf("undoing gzip: %w", err)
		}
		content = &a.gzip
	}
	_, err = a.body.ReadFrom(content)
	return err
}

// scraped is for scrapes whose answer does not matter.
func scraped([]byte, time.Duration) {}

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
