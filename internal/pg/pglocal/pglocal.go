// Package pglocal runs a Postgres server from the programs on this machine, as a child process on a
// free port of 127.0.0.1, for the tests and the demo.
package pglocal
