// Package lab damages real servers in every way that it knows and looks what
// the checks find. It is a test of its own, which runs only when it is asked for
// (see campaign_test.go), and writes one line of JSON for each.
package lab
