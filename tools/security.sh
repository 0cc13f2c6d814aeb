#!/usr/bin/env bash
# Looks for known weaknesses: of the code (gosec), of what it is built from (govulncheck), and licences that do not fit.
# GOVULNDB=file:///DIRECTORY is a copy of the database of vulnerabilities, where the public one cannot be reached; with
# SECURITY_REQUIRE=1 it is an error when there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
"$(tools/build.sh golangci-lint)" run --enable-only gosec,depguard ./...
go run ./tools/licences ./cmd/pg_integrity_exporter | sed '/^$/,$d'
status=0
output=$("$(tools/build.sh govulncheck)" ${GOVULNDB:+-db "$GOVULNDB"} ./cmd/pg_integrity_exporter 2>&1) || status=$?
echo "$output"
case $status in
0) ;;
3) exit 1 ;; # it found something
*)
	echo "security.sh: known vulnerabilities were NOT looked for: the database cannot be reached from here (see above)" >&2
	[ -z "${SECURITY_REQUIRE:-}" ] || exit 1
	;;
esac
