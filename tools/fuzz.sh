#!/usr/bin/env bash
# Runs every fuzz test for a while: tools/fuzz.sh 10s
set -euo pipefail
for package in $(go list ./...); do
	for test in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "$package $test"
		go test -run '^$' -fuzz "^$test\$" -fuzztime "${1:-10s}" -fuzzminimizetime 1s "$package"
	done
done
