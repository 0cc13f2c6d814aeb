#!/bin/sh
# Before the files go; not before an upgrade.
set -e
if [ "$1" = remove ] || [ "$1" = 0 ]; then
	if [ -d /run/systemd/system ]; then
		systemctl disable --now pg_integrity_exporter.service pg_integrity_exporter-drill.timer || true
	fi
fi
