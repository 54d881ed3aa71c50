tool := go tool -modfile=tools/go.mod
# sqlc without cgo takes a WebAssembly build of Postgres' parser: compiling the C one costs minutes.
sqlc := CGO_ENABLED=0 $(tool) sqlc

.DEFAULT_GOAL := help
.PHONY: help demo test race fuzz torture torture-bugs pulsar lint fmt generate verify ci

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the whole shop on this machine, until Ctrl-C
	go run ./cmd/shop demo

test: ## all tests, also those that take long
	go test -run . ./...

race: ## all tests with the race detector, none from the cache
	go test -race -count=1 -run . ./...

# What is fuzzed, as package:target.
targets := dedup:FuzzParseKey dedup:FuzzFingerprint api:FuzzDecode orders:FuzzImport orders:FuzzImportFile payments/provider/psp:FuzzReceiver payments/provider/psp:FuzzBody cards:FuzzIn payments/provider/stripe:FuzzReceiver
FUZZTIME ?= 30s

fuzz: ## look for bad input, FUZZTIME=30s for each target
	$(foreach t,$(targets),go test -run '^$$' -fuzz '^$(word 2,$(subst :, ,$t))$$' -fuzztime $(FUZZTIME) ./internal/$(word 1,$(subst :, ,$t)) &&) true

torture: ## half an hour of random faults on real processes: needs Postgres and redis-server
	go run ./cmd/shop torture --duration 30m

torture-bugs: ## plant bugs and see the torture find each: one to two minutes for each
	SHOP_TORTURE_BUGS=all go test -count=1 -timeout 60m -v -run TestPlantedBugsAreFound ./internal/proof/torture

pulsar: ## test the adapter for Pulsar, in a module of its own, against a real broker that it downloads (Java 17, Maven)
	go -C internal/outbox/broker/pulsar mod tidy -diff
	go -C internal/outbox/broker/pulsar test -tags proof ./...

lint: ## go vet and golangci-lint
	go vet ./...
	$(tool) golangci-lint run ./...

fmt: ## format the Go code
	$(tool) golangci-lint fmt ./...

generate: ## write the query code from db/queries and db/migrations
	$(sqlc) generate

verify: ## fail if generated code or go.mod is out of date
	$(sqlc) diff
	go mod verify
	go mod tidy -diff

ci: ## everything that CI runs
	.ci/run
