// Package embedded starts real servers for the demo and the tests: Postgres as a child process, Redis and NATS JetStream
// inside this process. Each listens on a free port of 127.0.0.1 only.
//
// The servers of a real deployment are somebody else's; only app, cmd and tests import this package.
package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
)

// LockFolder creates dir when it is missing and reserves it for this process until the returned file is closed or the
// process ends, however it ends. Two servers on one data folder would destroy it.
func LockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create the data folder (SHOP_DATA_DIR): %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder (SHOP_DATA_DIR): %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s is in use by another running shop: stop that one, or set SHOP_DATA_DIR to another folder", dir)
	}
	return nil, fmt.Errorf("lock %s: %w", dir, err)
}

// freePort returns a port of 127.0.0.1 that was free a moment ago; the caller has to cope with losing it.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// serverURL is the address of a server on host ("127.0.0.1:PORT"), with credentials when there is a password.
func serverURL(scheme, user, password, host string) url.URL {
	address := url.URL{Scheme: scheme, Host: host}
	switch {
	case password != "":
		address.User = url.UserPassword(user, password)
	case user != "":
		address.User = url.User(user)
	}
	return address
}

// newPassword returns a password that nobody guesses and that needs no escaping in a URL.
func newPassword() string { return rand.Text() }
