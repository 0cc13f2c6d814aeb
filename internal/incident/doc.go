// Package incident tells people what happens and what happened: updates for
// each audience while an incident is open, and the report afterwards.
//
// A report is made from [Evidence]: series of Prometheus, silences of
// Alertmanager and the exporter's own events, as fetched or as files. It
// states facts with their source, and says what it does not know; it never
// guesses a cause.
package incident
