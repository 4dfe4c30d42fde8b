# Sluice: `make run` shows it working, `make test` proves it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/release/sluice

.PHONY: help setup build run demo test check bench e2e fuzz deny chaos-coordination chaos-mutations

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup: ## install what the build and the tests need from the distribution
	@tests/setup.sh

build: setup ## build the release binary
	$(CARGO) build --release --locked -p sluice

run: build ## deliver a recorded chain to files and a webhook; stays up until Ctrl-C
	$(BIN) run --config deploy/example.toml --with-receiver 127.0.0.1:7402:data/received.jsonl

demo: build ## the same as five processes, each killed once with kill -9; verifies and exits
	$(BIN) demo

test: setup ## every test
	$(CARGO) test --locked --workspace

check: setup ## formatting, lints and documentation, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

bench: build ## the numbers of the README, with their floors measured in the same run
	$(CARGO) bench --locked -p sluice-frame --bench frame
	$(CARGO) bench --locked -p sluice-journal --bench append
	$(CARGO) bench --locked -p sluice-router --bench subscribe
	$(CARGO) bench --locked -p sluice-coordinator --bench coordination
	$(CARGO) bench --locked -p sluice-tests --bench process

e2e: setup ## what needs Go: a fresh recording of a real Cosmos SDK node, imported and verified
	tests/e2e.sh

FUZZ_SECONDS ?= 60
fuzz: ## scan and frames against a protobuf decoder (needs cargo-fuzz, a nightly toolchain and a C++ compiler)
	$(CARGO) run --locked -q -p sluice-tests --example fuzz_seeds -- crates/frame/fuzz/corpus
	cd crates/frame && for target in scan frame; do \
	  $(CARGO) +nightly fuzz run $$target -- -max_len=4096 -max_total_time=$(FUZZ_SECONDS) || exit 1; done

# Known advisories too, where their database can be reached: make deny CHECKS=all
CHECKS ?= bans licenses sources
deny: ## licences, sources and duplicates of what comes in from outside (needs cargo-deny)
	$(CARGO) deny --locked --all-features check $(CHECKS)

chaos-coordination: setup ## one active ingestor per name, under every fault; SEED=7 repeats a run
	$(CARGO) build --locked -p sluice
	$(CARGO) test --locked -p sluice-tests --test chaos -- $(SEED)

chaos-mutations: setup ## the same on builds with one check removed: each must be caught
	tests/mutations/run.sh
