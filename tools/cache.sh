#!/usr/bin/env bash
# Prints the directory that keeps what tests and tools download or build. An unprivileged user must be
# able to read it, because PostgreSQL refuses to run as root: hence not in root's own home.
set -euo pipefail
if [ -n "${PG_INTEGRITY_CACHE:-}" ]; then
	cache=$PG_INTEGRITY_CACHE
elif [ "$(id -u)" = 0 ]; then
	cache=/var/cache/pg_integrity_exporter
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/pg_integrity_exporter
fi
mkdir -p "$cache"
echo "$cache"
