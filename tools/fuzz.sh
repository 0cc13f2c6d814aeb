#!/usr/bin/env bash
# Runs every fuzz test for a while: tools/fuzz.sh 10s. With FUZZ_KEEP=1 the shortest inputs that led somewhere new are
# kept in testdata/fuzz, where every run of the tests tries them.
set -euo pipefail
kept=40      # of each test
longest=4096 # bytes of one
for package in $(go list ./...); do
	for test in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "$package $test"
		go test -run '^$' -fuzz "^$test\$" -fuzztime "${1:-10s}" -fuzzminimizetime 1s "$package"
		found=$(go env GOCACHE)/fuzz/$package/$test
		[ -n "${FUZZ_KEEP:-}" ] && [ -d "$found" ] || continue
		corpus=$(go list -f '{{.Dir}}' "$package")/testdata/fuzz/$test
		mkdir -p "$corpus"
		find "$found" -type f -size "-${longest}c" -printf '%s %p\n' | sort -n | head -n $kept | cut -d' ' -f2- | xargs -r cp -t "$corpus"
	done
done
