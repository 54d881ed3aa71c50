package app

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// ListenWeb opens the public address.
func (c Config) ListenWeb() (net.Listener, error) {
	return Listen("SHOP_ADDR", c.Addr, "127.0.0.1:8080")
}

// ListenOps opens the address for operators.
func (c Config) ListenOps() (net.Listener, error) {
	return Listen("SHOP_OPS_ADDR", c.OpsAddr, "127.0.0.1:9090")
}

// nextPorts is the number of ports to try after a default port that is taken.
const nextPorts = 100

// Listen opens the address in a setting. Without a value it opens the fallback's port or, if that
// is taken, the next free one.
func Listen(setting, value, fallback string) (net.Listener, error) {
	named := value != ""
	if !named {
		value = fallback
	}
	host, portText, err := net.SplitHostPort(value)
	if err != nil {
		return nil, UsageError{fmt.Errorf("%s %q is not an address such as %s", setting, value, fallback)}
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, UsageError{fmt.Errorf("%s %q has no port number, as in %s", setting, value, fallback)}
	}
	for try := 0; ; try++ {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port+try)))
		switch {
		case err == nil:
			return listener, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("%s: %w", setting, err)
		case named:
			return nil, fmt.Errorf("%s: %s is in use by another program: stop it, or name another port", setting, value)
		case try == nextPorts:
			return nil, fmt.Errorf("%s: no free port from %d to %d: name one", setting, port, port+try)
		}
	}
}
