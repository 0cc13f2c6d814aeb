package web

import (
	"bufio"
	"compress/gzip"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// compressors and buffers are kept between scrapes: making one costs more than
// using it. The fastest compression is enough, because what is scraped travels
// within a datacentre and the exporter shares its machine with the server.
var (
	compressors = sync.Pool{New: func() any {
		compressor, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is valid
		return compressor
	}}
	buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(io.Discard, 1<<16) }}
)

// expose writes families in the format that the client prefers. They were
// checked when they were made, so nothing is gathered again.
func expose(w http.ResponseWriter, r *http.Request, logger *slog.Logger, families ...[]*dto.MetricFamily) {
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
	w.Header().Set("Content-Type", string(format))
	w.Header().Set("Vary", "Accept-Encoding")
	var out io.Writer = w
	if acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		compressor := compressors.Get().(*gzip.Writer) //nolint:forcetypeassert // the pool holds nothing else
		compressor.Reset(w)
		defer func() {
			_ = compressor.Close() // a client that went away needs no end
			compressors.Put(compressor)
		}()
		out = compressor
	}
	buffer := buffers.Get().(*bufio.Writer) //nolint:forcetypeassert // the pool holds nothing else
	buffer.Reset(out)
	defer func() {
		_ = buffer.Flush()
		buffer.Reset(io.Discard)
		buffers.Put(buffer)
	}()
	encoder := expfmt.NewEncoder(buffer, format)
	for _, list := range families {
		for _, family := range list {
			if err := encoder.Encode(family); err != nil {
				logger.Debug("metrics were not written to the end", "err", err)
				return
			}
		}
	}
	if closer, ok := encoder.(expfmt.Closer); ok {
		_ = closer.Close()
	}
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, quality, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.TrimSpace(coding) == "gzip" && strings.ReplaceAll(quality, " ", "") != "q=0" {
			return true
		}
	}
	return false
}
