// Package shoptest is what the tests of the shop share: a database for each test, a gate for races,
// a real Redis. Production code never imports it.
package shoptest
