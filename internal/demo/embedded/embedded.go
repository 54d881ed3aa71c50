// Package embedded runs Redis and NATS JetStream inside the demo's process, each on a free port of
// 127.0.0.1.
package embedded

import (
	"crypto/rand"
	"net/url"
)

// serverURL is the address of a server on host ("127.0.0.1:PORT") with its credentials.
func serverURL(scheme, user, password, host string) string {
	address := url.URL{Scheme: scheme, User: url.UserPassword(user, password), Host: host}
	return address.String()
}

// newPassword returns a password that cannot be guessed and needs no escaping in a URL.
func newPassword() string { return rand.Text() }
