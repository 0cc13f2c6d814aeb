// Package alerts holds the alert rules, their runbooks and the Alertmanager
// configuration that ship with the exporter.
package alerts

import "embed"

// FS holds runbooks/NAME.md for each alert.
//
//go:embed runbooks/*.md
var FS embed.FS
