// Package alerts holds the alert rules, their runbooks and the Alertmanager
// configuration that ship with the exporter. The rules are data here; the
// committed YAML under rules is generated from them.
package alerts

import "embed"

// FS holds runbooks/NAME.md for each alert, and alertmanager/alertmanager.yml.
//
//go:embed runbooks/*.md alertmanager/alertmanager.yml
var FS embed.FS

//go:generate go run ../cmd/pg_integrity_exporter alerts export --output-directory=rules
//go:generate go run ../cmd/pg_integrity_exporter alerts export --format=kubernetes --output-directory=kubernetes
