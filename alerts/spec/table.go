package spec

import (
	"fmt"
	"strings"
	"time"
)

// Table is the table of all alerts for people, in Markdown.
func Table(options Options) string {
	var b strings.Builder
	b.WriteString("| alert | severity | layer | fires after | what it says |\n| --- | --- | --- | --- | --- |\n")
	for _, a := range Alerts(options) {
		fmt.Fprintf(&b, "| [%s](../alerts/runbooks/%s.md) | %s | %s | %s | %s |\n",
			a.Name, a.Name, a.Severity, a.Layer, after(a.For), a.Summary)
	}
	return b.String()
}

func after(d time.Duration) string {
	if d == 0 {
		return "at once"
	}
	return duration(d)
}
