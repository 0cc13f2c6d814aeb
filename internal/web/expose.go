package web

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/common/expfmt"

	"pg_integrity_exporter/internal/exposition"
)

// bodies are kept between scrapes.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// expose writes a page in the format that the client prefers.
func expose(w http.ResponseWriter, r *http.Request, logger *slog.Logger, page *exposition.Page) {
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
	body := bodies.Get().(*bytes.Buffer) //nolint:forcetypeassert // the pool holds nothing else
	defer bodies.Put(body)
	body.Reset()
	compressed := acceptsGzip(r)
	var err error
	switch {
	case format.FormatType() != expfmt.TypeTextPlain:
		err = encode(body, format, page, compressed)
	case compressed:
		page.Gzip(body)
	default:
		body.Write(page.Text())
	}
	if err != nil {
		logger.Error("metrics cannot be written", "err", err)
		http.Error(w, "The metrics cannot be written; the exporter's log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", string(format))
	w.Header().Set("Vary", "Accept-Encoding")
	if compressed {
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	if _, err := w.Write(body.Bytes()); err != nil {
		logger.Debug("metrics were not written to the end", "err", err)
	}
}

// encode writes a page in a format other than text.
func encode(body *bytes.Buffer, format expfmt.Format, page *exposition.Page, compressed bool) error {
	families, err := page.Families()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return err
		}
	}
	if end, ok := encoder.(expfmt.Closer); ok {
		if err := end.Close(); err != nil {
			return err
		}
	}
	if !compressed {
		_, err = text.WriteTo(body)
		return err
	}
	compressor := gzip.NewWriter(body)
	_, err = text.WriteTo(compressor)
	return errors.Join(err, compressor.Close())
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
