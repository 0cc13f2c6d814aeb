#!/usr/bin/env bash
# Measures the alerts about errors on synthetic traffic and prints docs/benchmarks/alerts.md; minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/prometheus"
CGO_ENABLED=0 exec go run -tags remove_all_sd -trimpath ./spikes "$here/../alerts/rules"
