// Package migrations holds the schema, one goose file per domain, embedded in the binary.
package migrations

import "embed"

// FS holds the goose migrations.
//
//go:embed *.sql
var FS embed.FS
