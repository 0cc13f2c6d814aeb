#!/usr/bin/env bash
# Installs what the tests need, or with the argument "demo" what the demo needs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# need PROGRAM PACKAGE: a program of the system, installed where we may.
need() {
	command -v "$1" >/dev/null && return
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "prepare.sh: $1 is missing: install the package $2" >&2
		exit 1
	fi
	echo "installing $2" >&2
	[ -n "${updated:-}" ] || apt-get update -qq
	updated=1
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

# has_postgres finds a server with amcheck where the demo looks for it.
has_postgres() {
	local directory
	for directory in "${PG_BINDIR:-}" "$("$here/cache.sh")"/postgresql/*/bin /usr/lib/postgresql/*/bin "$(dirname "$(readlink -f "$(command -v postgres || echo /none)")")"; do
		[ -x "$directory/initdb" ] && return 0
	done
	return 1
}

need go golang
case ${1:-test} in
demo)
	has_postgres || { need npm npm && "$here/postgres/install.sh" 18; }
	"$here/build.sh" prometheus >/dev/null
	"$here/build.sh" alertmanager >/dev/null
	;;
test)
	need gcc gcc
	need npm npm
	need pgbackrest pgbackrest
	need barman barman
	need pg_basebackup postgresql-client
	need pgbouncer pgbouncer
	need chromium chromium
	need zsh zsh
	for package in axe-core typescript grafana-schema-10 grafana-schema-11 grafana-schema-12; do
		"$here/npm.sh" "$package" >/dev/null
	done
	"$here/postgres/install.sh"
	"$here/build.sh" promtool >/dev/null
	"$here/build.sh" amtool >/dev/null
	"$here/build.sh" alertmanager >/dev/null
	;;
*)
	echo "prepare.sh: unknown argument $1" >&2
	exit 2
	;;
esac
