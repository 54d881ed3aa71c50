// Package onceshop holds the source of the flows that this program was built from, for pages that
// show code beside what it does.
package onceshop

import "embed"

// Source has the files of the four strategies and of the flows that use them.
//
//go:embed internal/dedup/*.go internal/orders/*.go internal/payments/*.go
//go:embed internal/outbox/*.go internal/notify/*.go
var Source embed.FS
