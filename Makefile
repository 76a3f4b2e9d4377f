# Mayfly. `make` lists the targets; `make demo` and `make test` are the two to
# know. Tools are built from the pinned versions below into bin/tools; none are
# taken from the machine.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

GO ?= go
BIN := $(CURDIR)/bin
TOOLS := $(BIN)/tools
FULCIO = e2e/.cache/bin/fulcio-$(FULCIO_VERSION)

GOLANGCI_LINT_VERSION := v2.15.0
BUF_VERSION := v1.70.0
PROTOC_GEN_GO_VERSION := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
FULCIO_VERSION := v1.8.8

FUZZTIME ?= 5s
BENCH ?= .
COMPARE ?=
TESTFLAGS ?=
# Of a release; empty means what git describe says.
VERSION ?=

# PKCS#11 modules are C libraries, and so is the race detector's runtime.
export CGO_ENABLED := 1

# git says nothing about a checkout that belongs to another user, as is usual in
# containers, and then go refuses to build. So it does without the revision.
ifneq ($(shell git rev-parse --git-dir >/dev/null 2>&1 && echo yes),yes)
export GOFLAGS := $(GOFLAGS) -buildvcs=false
endif

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: prerequisites ## build bin/mayfly and bin/mayfly-dev
	@.ci/build $(BIN) ./cmd/mayfly ./cmd/mayfly-dev

.PHONY: demo
demo: build ## a token in, a logged ten-minute certificate out, each step told
	@$(BIN)/mayfly-dev demo

.PHONY: dev
dev: build ## the demo stack, left running for cosign and friends
	@$(BIN)/mayfly-dev

.PHONY: test
test: test-prerequisites ## all tests, with the race detector
	$(GO) test -race $(TESTFLAGS) ./...

.PHONY: lint
lint: vet golangci-lint proto-lint ## go vet, gofmt, golangci-lint, buf lint, buf breaking

.PHONY: vet
vet: prerequisites
	$(GO) vet ./...
	@unformatted=$$(find . \( -name .git -o -name .cache -o -name bin \) -prune -o -name '*.go' ! -name '*.pb.go' -print0 | \
		xargs -0 "$$($(GO) env GOROOT)/bin/gofmt" -l); \
	if [ -n "$$unformatted" ]; then echo "not gofmt clean:"; echo "$$unformatted"; exit 1; fi

.PHONY: golangci-lint
golangci-lint: prerequisites $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
	$(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION) run ./...

.PHONY: proto-lint
proto-lint: $(TOOLS)/buf-$(BUF_VERSION) proto-tools
	$(TOOLS)/buf-$(BUF_VERSION) lint
	$(TOOLS)/buf-$(BUF_VERSION) breaking --against proto/baseline.binpb
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	PATH="$(TOOLS)/proto:$$PATH" $(TOOLS)/buf-$(BUF_VERSION) generate --output "$$fresh"; \
	for f in $$(cd "$$fresh/proto" && find . -name '*.pb.go'); do \
		diff -q "$$fresh/proto/$$f" "proto/$$f" || { echo "generated code is stale: run make generate"; exit 1; }; \
	done

.PHONY: generate
generate: $(TOOLS)/buf-$(BUF_VERSION) proto-tools ## generate the Go code of proto/
	PATH="$(TOOLS)/proto:$$PATH" $(TOOLS)/buf-$(BUF_VERSION) generate

.PHONY: fuzz-smoke
fuzz-smoke: test-prerequisites ## every fuzz target in the tree for FUZZTIME (5s)
	@FUZZTIME=$(FUZZTIME) .ci/fuzz-smoke

.PHONY: bench
bench: test-prerequisites ## what one issuance costs, as a table; BENCH=regexp picks some
	@packages=$$(.ci/targets Benchmark | cut -d' ' -f1 | sort -u); \
	if [ -z "$$packages" ]; then echo "no benchmarks found"; exit 1; fi; \
	mkdir -p $(BIN); \
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m $$packages | tee $(BIN)/bench.txt; \
	.ci/bench-table <$(BIN)/bench.txt

.PHONY: bench-guard
bench-guard: test-prerequisites ## allocations and ratios to the arithmetic against .ci/bench-guard.txt
	@.ci/bench-guard

# COMPARE='-rows=flood -write=' looks at one row and leaves the document alone;
# e2e/.cache/bin/compare -help has all flags.
.PHONY: bench-compare
bench-compare: build $(FULCIO) ## beside Fulcio, into docs/PERFORMANCE.md; 25 minutes of a quiet machine
	cd e2e && $(GO) build -o .cache/bin/compare ./compare
	e2e/.cache/bin/compare -mayfly $(BIN)/mayfly -fulcio $(FULCIO) -write docs/PERFORMANCE.md -json $(BIN)/compare.json $(COMPARE)

.PHONY: dist
dist: test-prerequisites ## the release binary with PKCS#11, tried with SoftHSM, in dist/
	@VERSION=$(VERSION) .ci/dist $(CURDIR)/dist

.PHONY: e2e
e2e: build ## real clients against the real service
	cd e2e && ./run.sh

.PHONY: e2e-full
e2e-full: build ## the end-to-end tests that take long to prepare: Active Directory, Kubernetes, CTFE
	cd e2e && E2E_DIRECTORY=1 ./run.sh -tags directory -run ActiveDirectory
	e2e/full/run.sh

.PHONY: ci
ci: ## all of it, as CI runs it
	@.ci/run

.PHONY: clean
clean: ## remove what was built and the demo's state
	rm -rf bin dist demo-state

.PHONY: prerequisites
prerequisites:
	@.ci/prerequisites

.PHONY: test-prerequisites
test-prerequisites:
	@.ci/prerequisites softhsm2

# Tools. The version is in the file name, so that a new pin builds anew.
# GOFLAGS is cleared: a tool is built as its own module says.

$(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION):
	@.ci/install-tool $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

$(TOOLS)/buf-$(BUF_VERSION):
	@.ci/install-tool $@ github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)

$(FULCIO):
	@.ci/install-tool $@ github.com/sigstore/fulcio@$(FULCIO_VERSION)

# buf finds the plugins by their plain names on PATH.
.PHONY: proto-tools
proto-tools: $(TOOLS)/proto/.$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GO_GRPC_VERSION)

$(TOOLS)/proto/.$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GO_GRPC_VERSION):
	@.ci/install-tool $(TOOLS)/proto/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	@.ci/install-tool $(TOOLS)/proto/protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
	@touch $@
