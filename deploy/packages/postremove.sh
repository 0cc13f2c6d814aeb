#!/bin/sh
# After the files went. The state goes only when the package is purged; the user stays.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
if [ "$1" = purge ]; then
	rm -rf /var/lib/pg_integrity_exporter
fi
