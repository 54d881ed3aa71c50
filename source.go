// Package onceshop holds the source of those functions that the duplicates lab shows beside its experiments.
package onceshop

import "embed"

// Source are the files that this very program was built from, so that what the lab shows cannot drift from what runs.
//
//go:embed internal/dedup/unique.go internal/dedup/key.go internal/dedup/memory.go internal/dedup/redis.go internal/dedup/broker.go
//go:embed internal/orders/place.go internal/orders/import.go
//go:embed internal/payments/charge.go internal/payments/reconcile.go
//go:embed internal/outbox/outbox.go internal/outbox/relay.go internal/outbox/consumer.go
//go:embed internal/notify/notify.go
//go:embed internal/lab/unique_naive.go internal/lab/memory_naive.go internal/lab/redis_naive.go internal/lab/broker_naive.go
var Source embed.FS
