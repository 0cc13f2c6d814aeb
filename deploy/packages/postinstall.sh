#!/bin/sh
# After the files are there, on deb ("configure OLD") and rpm (1 new, 2 upgrade).
set -e
user=pg_integrity_exporter
if ! getent passwd $user >/dev/null; then
	if command -v systemd-sysusers >/dev/null; then
		systemd-sysusers pg_integrity_exporter.conf
	else
		useradd --system --user-group --no-create-home --home-dir /var/lib/$user --shell /usr/sbin/nologin $user
	fi
fi
# A member of the server's group may read its log (log_file_mode = 0640).
if getent group postgres >/dev/null; then
	usermod --append --groups postgres $user
fi
chgrp $user /etc/pg_integrity_exporter.yml /etc/default/pg_integrity_exporter
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart pg_integrity_exporter.service
fi
if [ -z "$2" ] && [ "$1" != 2 ]; then
	echo "pg_integrity_exporter: name the server in /etc/pg_integrity_exporter.yml, then: systemctl enable --now pg_integrity_exporter"
fi
