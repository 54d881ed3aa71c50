// Package pglocal runs a Postgres server for the tests and the demo. It uses the programs on this
// machine and runs the server as a child process on a free port of 127.0.0.1.
package pglocal
