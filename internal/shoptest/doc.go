// Package shoptest has helpers for the shop's tests: a database for each test, a gate for races, a
// real Redis. Production code must not import it.
package shoptest
