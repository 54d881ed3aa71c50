// Package faults proves, one fault at a time, what docs/failure-table.md promises: real nodes of
// the shop as processes that can be killed, stopped and started again, real Postgres, Redis and
// NATS beside them, a network that can be broken in between, and witnesses outside. It holds tests
// only.
package faults
