#!/usr/bin/env bash
# Prints where axe-core is, the accessibility tests that run in a page; fetched once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=4.14.1
target=$("$here/cache.sh")/axe-core/$version
if [ ! -e "$target/axe.min.js" ]; then
	command -v npm >/dev/null || { echo "axe.sh: npm is missing: apt-get install npm" >&2; exit 1; }
	mkdir -p "$target"
	work=$(mktemp -d "$target/.new.XXXXXX")
	npm pack --silent --pack-destination "$work" "axe-core@$version" >/dev/null
	tar -xzf "$work"/*.tgz -C "$work"
	mv "$work/package/axe.min.js" "$target/axe.min.js"
	rm -rf "$work"
fi
echo "$target/axe.min.js"
