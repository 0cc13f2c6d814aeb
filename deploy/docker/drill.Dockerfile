# The exporter with PostgreSQL's own programs, for restore drills. The version must be that of the backups.
#
#   docker build -f deploy/docker/drill.Dockerfile --build-arg EXPORTER=pg_integrity_exporter --build-arg POSTGRES=postgres:18 .
ARG EXPORTER=pg_integrity_exporter
ARG POSTGRES=postgres:18
FROM ${EXPORTER} AS exporter

FROM ${POSTGRES}
COPY --from=exporter /usr/bin/pg_integrity_exporter /usr/bin/pg_integrity_exporter
USER 999:999
ENTRYPOINT ["/usr/bin/pg_integrity_exporter"]
