#!/usr/bin/env bash
# Builds what users get into dist/: for each architecture a tar file, a deb and an rpm package and a list of what is in
# the program (SBOM), and the checksums of all of them.
#
#   tools/release.sh [amd64 arm64]
#
# Twice the same commit with the same Go gives the same bytes: every time in them is that of the commit.
set -euo pipefail
cd "$(dirname "$0")/.."
architectures=("$@")
[ $# -gt 0 ] || architectures=(amd64 arm64)

name=pg_integrity_exporter
version=${VERSION:-$(git describe --tags --always --dirty)}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
# What packages call it: 1.2.3, 1.2.3~rc1 before it and 1.2.3+4.gabcdef behind it; without a tag 0.0.0+abcdef.
case $version in
v[0-9]*.[0-9]* | [0-9]*.[0-9]*) PACKAGE_VERSION=$(sed -E 's/^v//; s/-(alpha|beta|rc)/~\1/; s/-/+/g' <<<"$version") ;;
*) PACKAGE_VERSION=0.0.0+${version//-/+} ;;
esac
PACKAGE_MAINTAINER=${PACKAGE_MAINTAINER:-"$name maintainers <root@localhost>"}
export SOURCE_DATE_EPOCH PACKAGE_VERSION PACKAGE_MAINTAINER

umask 022
rm -rf dist
mkdir -p dist/build
for architecture in "${architectures[@]}"; do
	echo "building $name $version for linux/$architecture" >&2
	GOOS=linux GOARCH=$architecture make --no-print-directory build VERSION="$version" BRANCH= BIN="dist/build/linux-$architecture/$name"
done
go build -o dist/build/here ./cmd/$name
STATE_DIRECTORY=/var/lib/$name dist/build/here --help-man >dist/build/$name.1
gzip -9 -n dist/build/$name.1
dist/build/here --completion-script-bash >dist/build/completion.bash
dist/build/here --completion-script-zsh >dist/build/completion.zsh
go run ./tools/licences ./cmd/$name >dist/build/LICENSES

nfpm=$(tools/build.sh nfpm)
sbom=$(tools/build.sh cyclonedx-gomod)
for architecture in "${architectures[@]}"; do
	release=$name-$PACKAGE_VERSION-linux-$architecture
	mkdir -p "dist/build/$release"
	cp -R "dist/build/linux-$architecture/$name" dist/build/$name.1.gz dist/build/completion.* dist/build/LICENSES \
		LICENSE README.md CHANGELOG.md deploy docs "dist/build/$release"
	mkdir -p "dist/build/$release/dashboards" "dist/build/$release/alerts"
	cp dashboards/*.json "dist/build/$release/dashboards"
	cp -R alerts/rules alerts/alertmanager "dist/build/$release/alerts"
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C dist/build -cf - "$release" | gzip -9 -n >"dist/$release.tar.gz"
	for packager in deb rpm; do
		ARCH=$architecture "$nfpm" package --config deploy/packages/nfpm.yaml --packager $packager --target dist >&2
	done
	"$sbom" bin -json -licenses -std -noserial -notimestamp -version "$PACKAGE_VERSION" -output "dist/$release.sbom.json" "dist/build/linux-$architecture/$name" 2>/dev/null
done
cp dist/build/LICENSES dist/LICENSES
(cd dist && find . -maxdepth 1 -type f ! -name checksums.txt -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >checksums.txt)
rm -rf dist/build
cat dist/checksums.txt
