SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help build test test-all test-fast lint bench bench-peers demo pictures generate verify fuzz chaos soak torn helm package release security prepare clean

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION   ?= $(shell git rev-parse HEAD 2>/dev/null)
BRANCH     ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null)
# The time of the commit: twice the same source gives the same program.
BUILD_DATE ?= $(shell TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d-%H:%M:%S 2>/dev/null)
BIN        ?= bin/pg_integrity_exporter
LDFLAGS  := -s -w \
	-X github.com/prometheus/common/version.Version=$(VERSION) \
	-X github.com/prometheus/common/version.Revision=$(REVISION) \
	-X github.com/prometheus/common/version.Branch=$(BRANCH) \
	-X github.com/prometheus/common/version.BuildDate=$(BUILD_DATE)
FUZZTIME  ?= 10s
CHAOS_FOR ?= 5m
SOAK_FOR  ?= 4h
TORN_FOR  ?= 1h
GOFILES  := alerts cmd collector dashboards deploy internal tools
TEST_TOOLS = PROMTOOL=$$(tools/build.sh promtool) AMTOOL=$$(tools/build.sh amtool) ALERTMANAGER=$$(tools/build.sh alertmanager) PROMETHEUS=$$(tools/build.sh prometheus)
HELM_TOOLS = HELM=$$(tools/build.sh helm) KUBERNETES=$$(tools/build.sh kubernetes)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

build: ## bin/pg_integrity_exporter
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/pg_integrity_exporter

prepare: ## install what the tests need: PostgreSQL 13-18, promtool, amtool, alertmanager
	tools/prepare.sh

test: prepare ## what CI runs: every package on PostgreSQL 15, the long labs left out
	PGTEST_REQUIRE=1 PGTEST_PATIENCE=6 PGTEST_VERSIONS=15 $(TEST_TOOLS) go test -short -timeout 30m -parallel 6 ./...

test-all: prepare ## all tests on PostgreSQL 13-18 with the race detector
	PGTEST_REQUIRE=1 PGTEST_PATIENCE=6 $(TEST_TOOLS) $(HELM_TOOLS) PROMTOOL245=$$(tools/build.sh promtool-2.45) MIMIRTOOL=$$(tools/build.sh mimirtool) THANOS=$$(tools/build.sh thanos) go test -race -timeout 60m -parallel 6 ./...

test-fast: ## tests on one PostgreSQL version without the race detector; under 3 minutes
	tools/postgres/install.sh 15
	PGTEST_VERSIONS=15 go test -short -timeout 5m -parallel 6 ./...

lint: ## gofmt, vet, golangci-lint, rules
	@test -z "$$(gofmt -l $(GOFILES))" || { gofmt -l $(GOFILES); exit 1; }
	go vet ./...
	$$(tools/build.sh golangci-lint) run --allow-serial-runners ./...
	$$(tools/build.sh promtool) check rules alerts/rules/*.yaml

bench: ## benchmarks, each beside what a user would take instead
	go test -run '^$$' -bench . -benchtime 1s ./...

bench-peers: build ## write docs/benchmarks/peers.md; PEERS='NAME=COMMAND --web.listen-address={address}' measures others too, one a line
	go run ./tools/benchpeers >docs/benchmarks/peers.md.new
	mv docs/benchmarks/peers.md.new docs/benchmarks/peers.md

demo: ## replay the incident on a real server: damage, detection, page; DEMO_ONESHOT=1 ends by itself
	tools/prepare.sh demo
	go build -o bin/demo ./internal/demo
	@exec bin/demo

pictures: ## draw the pictures of docs/tour.md anew, from a run of the demo
	tools/prepare.sh demo
	go build -o bin/demo ./internal/demo
	DEMO_ONESHOT=1 DEMO_PICTURES=$(CURDIR)/docs/pictures bin/demo

generate: ## write alerts/rules, dashboards and docs/metrics.md anew
	go generate ./...

verify: generate ## fail when generated files are not current
	git diff --exit-code -- alerts dashboards docs
	@test -z "$$(git status --porcelain -- alerts dashboards docs)" || { git status --short -- alerts dashboards docs; exit 1; }

fuzz: ## every fuzz test for FUZZTIME; FUZZ_KEEP=1 keeps what it found in testdata
	tools/fuzz.sh $(FUZZTIME)

chaos: prepare ## everything around the exporter fails, again and again for CHAOS_FOR, and nothing may stay behind
	PGTEST_REQUIRE=1 PGTEST_PATIENCE=3 PGTEST_VERSIONS=15 go test -count=1 -v -timeout 0 ./internal/chaos -chaos.for=$(CHAOS_FOR)

soak: prepare ## a healthy, busy server watched for SOAK_FOR, with the rules in a real Prometheus: no false alarm, flat memory
	PGTEST_REQUIRE=1 PGTEST_PATIENCE=3 PGTEST_VERSIONS=15 $(TEST_TOOLS) go test -count=1 -v -timeout 0 -run TestSoak ./alerts -soak.for=$(SOAK_FOR)

torn: prepare ## all pages of servers under pgbench verified again and again for TORN_FOR each: no page that is being written is a finding
	PGTEST_REQUIRE=1 PGTEST_PATIENCE=3 go test -count=1 -v -timeout 0 -run TestTorn ./internal/check -torn.for=$(TORN_FOR)

helm: ## lint and render the Helm chart, and hold it against rules, dashboards and Kubernetes' own types; builds helm once
	$(HELM_TOOLS) go test -count=1 ./deploy/...

package: ## deb and rpm packages, a tar file and checksums for this architecture, into dist
	tools/release.sh $$(go env GOARCH)

release: ## the same for amd64 and arm64
	tools/release.sh

security: ## gosec, licences and known vulnerabilities of what the program is built from
	tools/security.sh

clean: ## remove what make built here
	rm -rf bin dist
