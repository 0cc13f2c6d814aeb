#!/usr/bin/env bash
# Prints the directory of a pinned npm package, fetched once: files that tests and tools read, nothing that runs.
#
#   tools/npm.sh axe-core|uplot|typescript|grafana-schema-10|grafana-schema-11|grafana-schema-12
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
axe-core) version=4.14.1 ;; # accessibility tests that run in a page
typescript) version=5.9.3 ;; # compares dashboards with the types of Grafana
grafana-schema-10) package=@grafana/schema version=10.4.19 ;; # the types of dashboards, of each Grafana
grafana-schema-11) package=@grafana/schema version=11.6.16 ;;
grafana-schema-12) package=@grafana/schema version=12.4.11 ;;
uplot) version=1.6.32 ;;    # lines over time, for tools/draw
*) echo "npm.sh: there is no package ${1:-}" >&2; exit 2 ;;
esac
target=$("$here/cache.sh")/npm/$1-$version
if [ ! -d "$target" ]; then
	command -v npm >/dev/null || { echo "npm.sh: npm is missing: apt-get install npm" >&2; exit 1; }
	mkdir -p "$(dirname "$target")"
	work=$(mktemp -d "$(dirname "$target")/.new.XXXXXX")
	npm pack --silent --pack-destination "$work" "${package:-$1}@$version" >/dev/null
	tar -xzf "$work"/*.tgz -C "$work"
	[ -d "$target" ] || mv "$work/package" "$target"
	rm -rf "$work"
fi
echo "$target"
