#!/usr/bin/env bash
# Prints the directory of a pinned npm package, fetched once: files that tests and tools read, nothing that runs.
#
#   tools/npm.sh axe-core|uplot
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
axe-core) version=4.14.1 ;; # accessibility tests that run in a page
uplot) version=1.6.32 ;;    # lines over time, for tools/draw
*) echo "npm.sh: there is no package ${1:-}" >&2; exit 2 ;;
esac
target=$("$here/cache.sh")/npm/$1-$version
if [ ! -d "$target" ]; then
	command -v npm >/dev/null || { echo "npm.sh: npm is missing: apt-get install npm" >&2; exit 1; }
	mkdir -p "$(dirname "$target")"
	work=$(mktemp -d "$(dirname "$target")/.new.XXXXXX")
	npm pack --silent --pack-destination "$work" "$1@$version" >/dev/null
	tar -xzf "$work"/*.tgz -C "$work"
	[ -d "$target" ] || mv "$work/package" "$target"
	rm -rf "$work"
fi
echo "$target"
