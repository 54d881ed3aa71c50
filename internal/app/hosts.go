package app

import (
	"net"
	"net/http"
	"strings"

	"github.com/onceshop/onceshop/internal/problem"
)

// OwnHosts returns a handler that answers 421 to a Host that is neither loopback nor SHOP_URL's,
// nor named as an address to listen on. Another site could otherwise point its name at this
// machine, and read and book in its visitor's demo (DNS rebinding). Outside the demo it returns the
// handler: operators sign in there, and the names of the service are its proxy's to check.
func (c Config) OwnHosts(handler http.Handler) http.Handler {
	if !c.Demo {
		return handler
	}
	own := make(map[string]bool)
	if u, err := c.publicURL(); err == nil {
		own[hostName(u.Host)] = true
	}
	for _, address := range []string{c.Addr, c.OpsAddr, c.PSPAddr, c.MailboxAddr} {
		own[hostName(address)] = true
	}
	refusal := problem.New("misdirected_request", "")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := hostName(r.Host); host == "" || !own[host] && !isLoopback(host) {
			w.Header().Set("Cache-Control", "no-store")
			_ = refusal.Write(w) // the client may have disconnected
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// hostName returns the host of HOST or HOST:PORT in lower case.
func hostName(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	return strings.ToLower(strings.Trim(address, "[]"))
}
