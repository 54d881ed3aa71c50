// Package onceshop holds the source of the flows that this program was built from, for pages that
// show code beside what it does.
package onceshop

import "embed"

// Source has the files of the four strategies and of the flows that use them, their schema and
// queries, and the lessons of the lab. Only the proof wing links it into a program.
//
//go:embed internal/dedup/*.go internal/orders/*.go internal/payments/*.go
//go:embed internal/outbox/*.go internal/outbox/broker/nats/*.go internal/notify/*.go
//go:embed db/migrations/*.sql db/queries/*/*.sql docs/lab/*.md
var Source embed.FS
