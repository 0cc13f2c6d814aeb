// Package spec is the table of all alerts and recording rules that ship with
// the exporter. The files under alerts/rules and the table in docs/alerting.md
// are made from it; nobody edits those by hand.
//
// A threshold is a constant here, and both the expression and the text of an
// alert take it from there, so that they cannot differ.
package spec
