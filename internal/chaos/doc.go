// Package chaos holds tests that make everything around the exporter fail: the
// network, the server, its catalogue, the disk. Of each fault they ask the same:
// is a scrape answered in its time, does it tell the truth, does it recover by
// itself, and does nothing stay behind. `make chaos` runs all of them for a
// while; -short leaves out those that take long.
package chaos
