#!/usr/bin/env bash
# Builds a pinned tool once and prints where it is.
#
#   tools/build.sh prometheus|promtool|promtool-2.45|alertmanager|amtool|golangci-lint|nfpm|helm|cyclonedx-gomod|
#   govulncheck|mimirtool|thanos|kubernetes
#
# A program of that name in PATH is used instead when it is new enough, except for those whose results depend on
# their version. Says on standard error what takes so long.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
name=$1
tags=""
case $name in
prometheus | promtool) module=prometheus package=github.com/prometheus/prometheus/cmd/$name oldest=2.42 tags=remove_all_sd ;;
promtool-2.45) module=prometheus-2.45 package=github.com/prometheus/prometheus/cmd/promtool oldest="" ;; # of the oldest Prometheus that is meant
alertmanager | amtool) module=alertmanager package=github.com/prometheus/alertmanager/cmd/$name oldest=0.27 ;;
golangci-lint) module=$name package=github.com/golangci/golangci-lint/v2/cmd/$name oldest="" ;;
nfpm) module=$name package=github.com/goreleaser/nfpm/v2/cmd/$name oldest="" ;;
helm) module=$name package=helm.sh/helm/v3/cmd/$name oldest="" ;;
cyclonedx-gomod) module=$name package=github.com/CycloneDX/cyclonedx-gomod/cmd/$name oldest="" ;;
mimirtool) module=$name package=github.com/grafana/mimir/cmd/$name oldest="" ;;
thanos) module=$name package=github.com/thanos-io/thanos/cmd/$name oldest="" ;;
govulncheck) module=$name package=golang.org/x/vuln/cmd/$name oldest="" ;;
kubernetes) # our own, whose version is its source
	(cd "$here/$name" && CGO_ENABLED=0 go build -o "$("$here/cache.sh")/bin/$name" .)
	echo "$("$here/cache.sh")/bin/$name"
	exit 0
	;;
*) echo "build.sh: there is no tool $name" >&2; exit 2 ;;
esac

# version_of prints the version of a program, as 2.45.1.
version_of() { "$1" --version 2>&1 | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1; }

if [ -n "$oldest" ] && found=$(command -v "$name"); then
	version=$(version_of "$found" || true)
	if [ -n "$version" ] && [ "$(printf '%s\n' "$oldest" "$version" | sort -V | head -n 1)" = "$oldest" ]; then
		echo "$found"
		exit 0
	fi
fi

pinned=$(cd "$here/$module" && sed -nE "s|^.*${package%/cmd/*} (v[0-9][^ ]*)( .*)?$|\1|p" go.mod | head -n 1)
bin=$("$here/cache.sh")/bin
target=$bin/$name-$pinned
mkdir -p "$bin"
exec 9>"$bin/.$module.lock"
flock 9
if [ ! -x "$target" ]; then
	started=$SECONDS
	echo "building $name $pinned; this takes minutes, once" >&2
	(while sleep 15; do echo "building $name $pinned: $((SECONDS - started)) s so far" >&2; done) 9>&- &
	progress=$!
	trap 'kill $progress 2>/dev/null || true' EXIT
	(cd "$here/$module" && CGO_ENABLED=0 go build -tags "$tags" -trimpath -ldflags '-s -w' -o "$target.$$" "$package")
	mv "$target.$$" "$target"
	echo "built $name in $((SECONDS - started)) s" >&2
fi
echo "$target"
