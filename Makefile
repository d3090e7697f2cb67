# Everything that a developer does here. `make` or `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run build test bench bench-profile soak lint fmt fuzz vulnerabilities packages

MODULES := ./events/... ./schemas/... ./services/... ./tools/...
BIN := $(CURDIR)/.bin
TOOLS := $(BIN)/.tools
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# How much of the machine tests take: packages at a time, and seconds for each fuzz target.
PARALLEL ?= 2
FUZZTIME ?= 10s
# Flags of the performance report (.bin/bench -help), and how long the soak lasts.
BENCH ?=
SOAK ?= 10m

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 18

run: build ## build and run everything on this machine, with demo accounts; Ctrl-C stops it
	@$(call need,initdb,postgresql)
	@exec $(BIN)/sekisho up

build: ## build the command into .bin/
	@mkdir -p $(BIN)
	go build -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o $(BIN)/ ./services/cmd/sekisho

test: packages lint vulnerabilities ## check the code and run all tests: unit, real NATS, real PostgreSQL, browser
	@$(BIN)/gotestsum --format pkgname-and-test-fails --hide-summary skipped --jsonfile $(BIN)/test.json -- \
		-race -count=1 -shuffle=on -timeout 15m -p $(PARALLEL) $(MODULES)
	@! grep '"Action":"skip".*"Test":' $(BIN)/test.json

bench: build ## the performance report: logins a second, latency and cost, beside the broker's own limit (BENCH=flags)
	@$(call need,initdb,postgresql)
	@go build -o $(BIN)/ ./tools/cmd/bench
	@$(BIN)/bench -sekisho $(BIN)/sekisho $(BENCH)

bench-profile: build ## CPU and allocation profiles of the saturated saga into .bin/profiles, and their top ten
	@$(call need,initdb,postgresql)
	@go build -o $(BIN)/ ./tools/cmd/bench
	@rm -rf $(BIN)/profiles && mkdir -p $(BIN)/profiles
	@$(BIN)/bench -sekisho $(BIN)/sekisho -only 'in process' -phase 5s -parked 0 -profiles $(BIN)/profiles $(BENCH)
	@for profile in $(BIN)/profiles/*.cpu.pb.gz; do echo "== $${profile##*/}"; go tool pprof -top -nodecount 10 $$profile 2>/dev/null; done
	@for profile in $(BIN)/profiles/*.allocs.pb.gz; do echo "== $${profile##*/}"; go tool pprof -sample_index alloc_space -top -nodecount 10 $$profile 2>/dev/null; done

soak: build ## mixed logins and restarts of workers for SOAK (10m); fails when something grows, plots .bin/soak.png
	@$(call need,initdb,postgresql)
	@go build -o $(BIN)/ ./tools/cmd/soak
	@$(BIN)/soak -sekisho $(BIN)/sekisho -for $(SOAK) -plot $(BIN)/soak.png

lint: $(TOOLS) ## gofmt, go vet and staticcheck
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
		[ -z "$$unformatted" ] || { echo "not formatted, run make fmt: $$unformatted"; exit 1; }
	go vet $(MODULES)
	$(BIN)/staticcheck $(MODULES)

fmt: ## format the code
	@git ls-files -co --exclude-standard '*.go' | xargs gofmt -w

fuzz: ## run every fuzz target for FUZZTIME
	@grep -rlE '^func Fuzz' --include='*_test.go' events services tools | while read -r file; do \
		grep -oE '^func Fuzz[A-Za-z0-9_]*' "$$file" | while read -r _ target; do \
			echo "$$target in $$(dirname "$$file")"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$file")" </dev/null; \
		done; \
	done

# A known vulnerability stops the build (exit code 3). A database that can not be reached does not.
vulnerabilities: $(TOOLS)
	@for module in events services tools; do \
		code=0; (cd $$module && timeout 90 $(BIN)/govulncheck ./...) || code=$$?; \
		case $$code in 0) ;; 3) exit 1 ;; *) echo "warning: $$module: the vulnerability database was not asked" ;; esac; \
	done

# The tools' versions are those of tools/go.mod, which knows nothing of the other modules' dependencies.
$(TOOLS): tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	cd tools && GOWORK=off GOBIN=$(BIN) go install tool
	@touch $@

packages:
	@$(call need,initdb,postgresql)
	@$(call need,chromium chromium-browser google-chrome,chromium fonts-noto-cjk)
	@$(call need,node,nodejs)
	@$(call need,npm,npm)
	@$(call need,nginx,nginx)
	@$(call need,caddy,caddy)
	@$(call need,haproxy,haproxy)

# need,<programs of which one is needed>,<packages>: installs the packages where that is possible, else says what is missing.
define need
have() { for p in $(1); do PATH=$$PATH:/usr/sbin command -v $$p >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$$p" >/dev/null && return; done; false; }; \
	have && exit 0; \
	sudo=$$([ $$(id -u) = 0 ] || echo sudo); \
	if command -v apt-get >/dev/null && { [ -z "$$sudo" ] || command -v sudo >/dev/null; }; then \
		$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
	else \
		echo "install one of these programs first: $(1) (Debian: $(2))"; exit 1; \
	fi
endef
