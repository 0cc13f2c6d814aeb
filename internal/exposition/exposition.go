// Package exposition is one page of metrics in Prometheus' text format. What
// seldom changes is kept compressed, so that a scrape writes and compresses only
// what is new.
package exposition

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Page is the families of one scrape. No family is in more than one of its parts.
type Page struct {
	// Kept is what seldom changes; nil is nothing.
	Kept *Kept
	// Fresh is the rest.
	Fresh []byte
}

// pages are used again.
var pages = sync.Pool{New: func() any { return new(Page) }}

// NewPage makes a page without families.
func NewPage() *Page {
	page := pages.Get().(*Page) //nolint:forcetypeassert // the pool holds nothing else
	page.Kept, page.Fresh = nil, page.Fresh[:0]
	return page
}

// Free gives the memory of a page back, that nobody needs any more.
func (p *Page) Free() { pages.Put(p) }

// Kept is text that is compressed already. Its blocks can stand before those of
// other text in one stream.
type Kept struct {
	blocks   []byte // of deflate (RFC 1951), none of them the last one of a stream
	checksum uint32
	size     int // of the text
}

// compress adds blocks of text to out; last ends the stream. The fastest
// compression is enough, because what is scraped travels within a datacentre and
// the exporter shares its machine with the server; this one also holds a megabyte
// less than a flate.Writer.
func compress(out *bytes.Buffer, text []byte, last bool) {
	_ = flate.StatelessDeflate(out, text, last, nil) // a buffer takes everything
}

// Keep compresses text that goes into many pages.
func Keep(text []byte) *Kept { return new(Kept).With(text) }

// With is what is kept with more text after it.
func (k *Kept) With(text []byte) *Kept {
	if k == nil {
		k = new(Kept)
	}
	var out bytes.Buffer
	out.Write(k.blocks)
	compress(&out, text, false)
	return &Kept{blocks: bytes.Clone(out.Bytes()), checksum: crc32.Update(k.checksum, crc32.IEEETable, text), size: k.size + len(text)}
}

// Dense is the same with better compression, which takes several times as long to
// make and a third less to read: for what stays the same.
func (k *Kept) Dense() *Kept {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.DefaultCompression) // the level is valid
	_, _ = w.Write(k.text())                                // a buffer takes everything
	_ = w.Flush()
	return &Kept{blocks: bytes.Clone(out.Bytes()), checksum: k.checksum, size: k.size}
}

// text undoes the compression.
func (k *Kept) text() []byte {
	if k == nil {
		return nil
	}
	text := make([]byte, k.size)
	if _, err := io.ReadFull(flate.NewReader(bytes.NewReader(k.blocks)), text); err != nil {
		panic(fmt.Sprintf("exposition: what was kept cannot be read: %v", err)) // it was made here
	}
	return text
}

// Text is the whole page.
func (p *Page) Text() []byte { return append(p.Kept.text(), p.Fresh...) }

// gzipHeader is that of a file without a name and a time (RFC 1952).
const gzipHeader = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

// Gzip adds the whole page, compressed, to out.
func (p *Page) Gzip(out *bytes.Buffer) {
	out.WriteString(gzipHeader)
	kept := p.Kept
	if kept == nil {
		kept = new(Kept)
	}
	out.Write(kept.blocks)
	compress(out, p.Fresh, true)
	end := out.AvailableBuffer()
	end = binary.LittleEndian.AppendUint32(end, crc32.Update(kept.checksum, crc32.IEEETable, p.Fresh))
	end = binary.LittleEndian.AppendUint32(end, uint32(kept.size+len(p.Fresh))) // modulo 2^32
	out.Write(end)
}

// Families reads the page back, for formats other than text. They are ordered by
// name.
func (p *Page) Families() ([]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	byName, err := parser.TextToMetricFamilies(bytes.NewReader(p.Text()))
	if err != nil {
		return nil, fmt.Errorf("reading the page back: %w", err)
	}
	families := make([]*dto.MetricFamily, 0, len(byName))
	for _, family := range byName {
		families = append(families, family)
	}
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return families, nil
}
