package pglog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxStreams bounds the connections that one listener serves at once.
	maxStreams = 64
	// streamIdle is how long nothing must come before an open message is taken
	// for complete.
	streamIdle = pollInterval
)

// Stream reads a log that comes as lines: from standard input, or from whoever
// connects. What was read cannot be read again, so a kill between reading and
// the next batch loses up to that batch.
type Stream struct {
	// Commit keeps a batch. Calls do not overlap.
	Commit func(Batch)
	// Report is told how the stream fares.
	Report func(Status)

	input  Input
	labels *Labels

	mu     sync.Mutex
	status Status
}

// NewStream makes a reader of lines.
func NewStream(input Input, labels *Labels) *Stream { return &Stream{input: input, labels: labels} }

// Stdin reads standard input until it or ctx ends.
func (s *Stream) Stdin(ctx context.Context) {
	s.report(func(status *Status) { status.Up, status.Path = true, "standard input" })
	file, err := pollable(os.Stdin)
	if err == nil {
		err = s.read(ctx, file)
		_ = file.Close() // a duplicate that was only read
	}
	if ctx.Err() == nil {
		s.report(func(status *Status) {
			status.Up, status.Problem = false, "standard input has ended: start whatever writes the log again"
			if err != nil {
				status.Problem = fmt.Sprintf("standard input: %v", err)
			}
		})
	}
}

// pollable gives a file like the given one whose reads can be ended.
func pollable(file *os.File) (*os.File, error) {
	descriptor, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("duplicating it: %w", err)
	}
	syscall.CloseOnExec(descriptor)
	if info, err := file.Stat(); err == nil && !info.Mode().IsRegular() {
		if err := syscall.SetNonblock(descriptor, true); err != nil {
			return nil, fmt.Errorf("making it pollable: %w", err)
		}
	}
	return os.NewFile(uintptr(descriptor), file.Name()), nil
}

// Listen accepts connections at an address such as tcp://127.0.0.1:5140 or
// unix:///run/pg_integrity_exporter/log.sock until ctx ends.
func (s *Stream) Listen(ctx context.Context, address string) {
	network, place, _ := strings.Cut(address, "://")
	for ctx.Err() == nil {
		listener, err := listen(ctx, network, place)
		if err == nil {
			s.report(func(status *Status) { status.Up, status.Problem, status.Path = true, "", address })
			err = s.serve(ctx, listener)
		}
		if ctx.Err() != nil {
			return
		}
		s.report(func(status *Status) { status.Up, status.Problem = false, fmt.Sprintf("%s: %v", address, err) })
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func listen(ctx context.Context, network, place string) (net.Listener, error) {
	if network == "unix" {
		// A socket that an exporter left behind is in the way; a live one is not
		// taken away.
		if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, place); err == nil {
			return nil, errors.Join(errors.New("another process listens there"), conn.Close())
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			if err := os.Remove(place); err != nil {
				return nil, err
			}
		}
	}
	return (&net.ListenConfig{}).Listen(ctx, network, place)
}

func (s *Stream) serve(ctx context.Context, listener net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer stop()
	serving.Go(func() {
		<-ctx.Done()
		_ = listener.Close() // ends Accept
	})
	turns := make(chan struct{}, maxStreams)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accepting: %w", err)
		}
		select {
		case turns <- struct{}{}:
		default:
			_ = conn.Close() // too many; whoever sends the log connects again
			continue
		}
		serving.Go(func() {
			defer func() { <-turns }()
			// What came before it broke was read.
			_ = s.read(ctx, conn)
			_ = conn.Close()
		})
	}
}

// source is what lines come from.
type source interface {
	io.Reader
	SetReadDeadline(t time.Time) error
}

// read reads lines until they or ctx end.
func (s *Stream) read(ctx context.Context, from source) error {
	counts := newCounts(s.labels)
	decoder := newDecoder(s.input, counts.add)
	decoder.lose = counts.lose
	failures, last := uint64(0), time.Now()
	unkept := 0
	for {
		deadline := time.Now().Add(streamIdle)
		if err := from.SetReadDeadline(deadline); err != nil && !errors.Is(err, os.ErrNoDeadline) {
			return err
		}
		n, err := from.Read(decoder.space())
		decoder.advance(n)
		unkept += n
		idle := n == 0
		ended := ctx.Err() != nil || err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
		if idle || ended {
			decoder.flush(ended)
		}
		if idle || ended || unkept >= batchSize || time.Since(last) >= streamIdle {
			s.keep(counts, unkept, decoder.failures-failures)
			failures, last, unkept = decoder.failures, time.Now(), 0
		}
		if ended {
			if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
			return err
		}
	}
}

// keep commits a batch and reports.
func (s *Stream) keep(counts *counts, n int, failures uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !counts.empty() {
		s.Commit(counts.batch("", Position{}, false))
	}
	if n > 0 || failures > 0 {
		s.status.ReadBytes += uint64(n)
		s.status.ParseFailures += failures
		s.status.LastMessage = time.Now()
		s.Report(s.status)
	}
}

func (s *Stream) report(change func(status *Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
	s.Report(s.status)
}
