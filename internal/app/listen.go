package app

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// address is a setting that names where to listen.
type address struct{ setting, value, fallback string }

func (c Config) webAddress() address { return address{"SHOP_ADDR", c.Addr, "127.0.0.1:8080"} }
func (c Config) opsAddress() address { return address{"SHOP_OPS_ADDR", c.OpsAddr, "127.0.0.1:9090"} }
func (c Config) pspAddress() address { return address{"SHOP_PSP_ADDR", c.PSPAddr, "127.0.0.1:8090"} }
func (c Config) mailboxAddress() address {
	return address{"SHOP_MAILBOX_ADDR", c.MailboxAddr, "127.0.0.1:8025"}
}
func (c Config) smtpAddress() address {
	return address{"SHOP_MAILBOX_SMTP_ADDR", c.MailboxSMTPAddr, "127.0.0.1:1025"}
}

// nextPorts is how far to look for a free port when a default one is taken.
const nextPorts = 100

// listen opens the address. When nobody named it and its port is taken, the next free one is used.
func listen(a address) (net.Listener, error) {
	named := a.value != ""
	if !named {
		a.value = a.fallback
	}
	host, portText, err := net.SplitHostPort(a.value)
	if err != nil {
		return nil, UsageError{fmt.Errorf("%s %q is not an address such as %s", a.setting, a.value, a.fallback)}
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, UsageError{fmt.Errorf("%s %q has no port number, as in %s", a.setting, a.value, a.fallback)}
	}
	for try := 0; ; try++ {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port+try)))
		switch {
		case err == nil:
			return listener, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("%s: %w", a.setting, err)
		case named:
			return nil, fmt.Errorf("%s: %s is in use by another program: stop it, or name another port", a.setting, a.value)
		case try == nextPorts:
			return nil, fmt.Errorf("%s: no free port from %d to %d: name one", a.setting, port, port+try)
		}
	}
}
