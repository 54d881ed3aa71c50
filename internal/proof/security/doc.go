// Package security has no code, only tests: each sends what an attacker would, to a whole shop over
// real sockets, and looks at what he gets. docs/security.md lists them; a test holds the list
// against the tests.
package security
