package web

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// textWriter writes families in one of the two text formats. Nearly all families
// are gauges and counters, which it writes itself in less than half of the
// time that the library takes; the others it leaves to the library.
type textWriter struct {
	bytes.Buffer

	openMetrics bool
}

// writes says whether a format is one of the two.
func writes(format expfmt.Format) (openMetrics, ok bool) {
	switch format.FormatType() {
	case expfmt.TypeTextPlain:
		return false, true
	case expfmt.TypeOpenMetrics:
		return true, true
	default:
		return false, false
	}
}

func (w *textWriter) family(family *dto.MetricFamily) error {
	name, kind := family.GetName(), ""
	switch family.GetType() {
	case dto.MetricType_GAUGE:
		kind = "gauge"
	case dto.MetricType_COUNTER:
		// OpenMetrics calls a counter without the suffix something else.
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
	default:
	}
	if kind == "" || family.Unit != nil || len(family.GetMetric()) == 0 {
		return w.other(family)
	}
	line := w.AvailableBuffer()
	short := name
	if w.openMetrics && kind == "counter" {
		short = strings.TrimSuffix(name, "_total")
	}
	if family.Help != nil {
		line = append(append(append(line, "# HELP "...), short...), ' ')
		line = appendEscaped(line, family.GetHelp(), w.openMetrics)
		line = append(line, '\n')
	}
	line = append(append(append(line, "# TYPE "...), short...), ' ')
	line = append(append(line, kind...), '\n')
	w.Write(line)
	for _, metric := range family.GetMetric() {
		w.metric(name, metric)
	}
	return nil
}

func (w *textWriter) other(family *dto.MetricFamily) (err error) {
	if w.openMetrics {
		_, err = expfmt.MetricFamilyToOpenMetrics(w, family)
	} else {
		_, err = expfmt.MetricFamilyToText(w, family)
	}
	return err
}

func (w *textWriter) metric(name string, metric *dto.Metric) {
	line := append(w.AvailableBuffer(), name...)
	separator := byte('{')
	for _, label := range metric.GetLabel() {
		line = append(append(append(line, separator), label.GetName()...), '=', '"')
		line = append(appendEscaped(line, label.GetValue(), true), '"')
		separator = ','
	}
	if separator == ',' {
		line = append(line, '}')
	}
	value := metric.GetGauge().GetValue()
	if metric.Counter != nil {
		value = metric.GetCounter().GetValue()
	}
	line = w.appendFloat(append(line, ' '), value)
	w.Write(append(line, '\n'))
}

// appendFloat writes a number as the format has it; OpenMetrics wants a point or
// an exponent in each.
func (w *textWriter) appendFloat(line []byte, value float64) []byte {
	switch {
	case math.IsNaN(value):
		return append(line, "NaN"...)
	case math.IsInf(value, 1):
		return append(line, "+Inf"...)
	case math.IsInf(value, -1):
		return append(line, "-Inf"...)
	}
	start := len(line)
	line = strconv.AppendFloat(line, value, 'g', -1, 64)
	if w.openMetrics && !bytes.ContainsAny(line[start:], "e.") {
		line = append(line, ".0"...)
	}
	return line
}

// appendEscaped writes text in one line; quotes says that it stands in quotes.
func appendEscaped(line []byte, text string, quotes bool) []byte {
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\n':
			line = append(line, '\\', 'n')
		case c == '\\', c == '"' && quotes:
			line = append(line, '\\', c)
		default:
			line = append(line, c)
		}
	}
	return line
}
