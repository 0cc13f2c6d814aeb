package web

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// compressors and texts are kept between scrapes: making one costs more than
// using it. The fastest compression is enough, because what is scraped travels
// within a datacentre and the exporter shares its machine with the server.
var (
	compressors = sync.Pool{New: func() any {
		compressor, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is valid
		return compressor
	}}
	texts = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

// expose writes families in the format that the client prefers. They were
// checked when they were made, so nothing is gathered again.
func expose(w http.ResponseWriter, r *http.Request, logger *slog.Logger, families ...[]*dto.MetricFamily) {
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
	w.Header().Set("Content-Type", string(format))
	w.Header().Set("Vary", "Accept-Encoding")
	text := texts.Get().(*bytes.Buffer) //nolint:forcetypeassert // the pool holds nothing else
	defer texts.Put(text)
	text.Reset()
	if err := encode(text, format, families); err != nil {
		logger.Error("metrics cannot be written", "err", err)
		http.Error(w, "The metrics cannot be written; the exporter's log says why.", http.StatusInternalServerError)
		return
	}
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
	if _, err := out.Write(text.Bytes()); err != nil {
		logger.Debug("metrics were not written to the end", "err", err)
	}
}

// encode writes families in a format.
func encode(text *bytes.Buffer, format expfmt.Format, families [][]*dto.MetricFamily) error {
	encoder := expfmt.NewEncoder(text, format)
	for _, list := range families {
		for _, family := range list {
			if err := encoder.Encode(family); err != nil {
				return err
			}
		}
	}
	if end, ok := encoder.(expfmt.Closer); ok {
		return end.Close()
	}
	return nil
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
