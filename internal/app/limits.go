package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/ratelimit"
)

// Limits are the settings for rate limits and for finding a client's address.
type Limits struct {
	// PerGuest is the number of requests per second that one address may send without a valid
	// token, with bursts of five seconds' worth. Zero means no limit.
	PerGuest int `env:"SHOP_GUEST_RATE_LIMIT" envDefault:"200"`
	// PerToken is the same for a valid token. The demo has no limit by default, because all its
	// users share three tokens.
	PerToken *int `env:"SHOP_TOKEN_RATE_LIMIT"`
	// PayAttempts is how many declined charges an order may have. Zero is any number.
	PayAttempts int `env:"SHOP_PAY_ATTEMPTS" envDefault:"10"`
	// UnpaidOrders are the unpaid orders that guests may have. PerTokenUnpaid is the same for an
	// API customer. Zero is any number.
	UnpaidOrders   unpaidOrders `env:"SHOP_UNPAID_ORDERS" envDefault:"5,20"`
	PerTokenUnpaid int          `env:"SHOP_TOKEN_UNPAID_ORDERS"`
	// CancelWindow is how long after the payment a customer may cancel. Zero is any time.
	CancelWindow time.Duration `env:"SHOP_CANCEL_WINDOW" envDefault:"24h"`
	// TrustedProxies are the addresses or networks whose X-Forwarded-For is trusted.
	TrustedProxies []string `env:"SHOP_TRUSTED_PROXIES"`
}

// defaultPerToken is far above the rate of one customer's program and below a node's capacity.
const defaultPerToken = 2000

// unpaidOrders bounds the unpaid orders of one guest, and of all guests with one address.
type unpaidOrders struct{ Guest, Address int }

// UnmarshalText reads "5,20", or "5" for a guest and four times as many for an address.
func (u *unpaidOrders) UnmarshalText(text []byte) error {
	guest, address, two := strings.Cut(string(text), ",")
	var errGuest, errAddress error
	u.Guest, errGuest = strconv.Atoi(strings.TrimSpace(guest))
	u.Address = 4 * u.Guest
	if two {
		u.Address, errAddress = strconv.Atoi(strings.TrimSpace(address))
	}
	if errGuest != nil || errAddress != nil || min(u.Guest, u.Address) < 0 || max(u.Guest, u.Address) > maxUnpaid {
		return fmt.Errorf("SHOP_UNPAID_ORDERS %q must be a number of orders for a guest, or one for a guest and one "+
			"for an address, such as 5,20; 0 means no limit", text)
	}
	return nil
}

// maxUnpaid bounds what has to be counted for each order.
const maxUnpaid = 1_000_000

// check reports invalid limits.
func (l Limits) check() error {
	var wrong []error
	for name, value := range map[string]*int{"SHOP_GUEST_RATE_LIMIT": &l.PerGuest,
		"SHOP_TOKEN_RATE_LIMIT": l.PerToken} {
		if value != nil && *value < 0 {
			wrong = append(wrong, fmt.Errorf("%s (%d) must be a number of requests per second, or 0 for no limit",
				name, *value))
		}
	}
	if l.PerTokenUnpaid < 0 || l.PerTokenUnpaid > maxUnpaid {
		wrong = append(wrong, fmt.Errorf("SHOP_TOKEN_UNPAID_ORDERS (%d) must be a number of orders, or 0 for no limit",
			l.PerTokenUnpaid))
	}
	_, err := l.proxies()
	return errors.Join(append(wrong, err)...)
}

func (l Limits) proxies() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range l.TrustedProxies {
		text = strings.TrimSpace(text)
		if address, err := netip.ParseAddr(text); err == nil {
			networks = append(networks, netip.PrefixFrom(address, address.BitLen()))
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("SHOP_TRUSTED_PROXIES: %q is no address or network such as 10.0.0.7 or 10.0.0.0/8",
				text)
		}
		networks = append(networks, network)
	}
	return networks, nil
}

func (c Config) limiter() *ratelimit.Limiter {
	perToken := defaultPerToken
	switch {
	case c.PerToken != nil:
		perToken = *c.PerToken
	case c.Demo:
		perToken = 0
	}
	return ratelimit.New(c.PerGuest, perToken)
}

// clientAddress extracts a client's address: the peer's, or, if the peer is a trusted proxy, the
// one that the proxy reports.
func (c Config) clientAddress() echo.IPExtractor {
	networks, err := c.proxies()
	if err != nil || len(networks) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, network := range networks {
		options = append(options, echo.TrustIPRange(&net.IPNet{IP: network.Addr().AsSlice(),
			Mask: net.CIDRMask(network.Bits(), network.Addr().BitLen())}))
	}
	return echo.ExtractIPFromXFFHeader(options...)
}

// warnOfProxy logs a warning if all buyers would count as one client: an https address without a
// trusted proxy means that a proxy stands before the shop.
func (a *App) warnOfProxy(ctx context.Context) {
	if a.role.Web && a.config.PerGuest > 0 && a.config.secure() && len(a.config.TrustedProxies) == 0 {
		a.log.WarnContext(ctx, "all guests count as one client: name the proxy before the shop", "setting",
			"SHOP_TRUSTED_PROXIES", "limit_per_second", a.config.PerGuest)
	}
}
