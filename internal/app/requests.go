package app

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/cards"
	"github.com/onceshop/onceshop/internal/tracing"
	"github.com/onceshop/onceshop/web"
)

var refusedRequests = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "onceshop_refused_requests_total",
	Help: "Requests refused with 401 (no valid token), 403 (not allowed) or 429 (too many).",
}, []string{"status"})

func init() {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests} {
		refusedRequests.WithLabelValues(strconv.Itoa(status))
	}
}

// statusClientGone stands in the log for a request whose client disconnected before the answer.
const statusClientGone = 499

// identify gives each answer an X-Request-Id, the caller's or a new one, which the request's log
// lines have too.
func identify(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(echo.HeaderXRequestID)
		if !isRequestID(id) {
			id = uuid.Must(uuid.NewV7()).String()
		}
		w.Header().Set(echo.HeaderXRequestID, id)
		handler.ServeHTTP(w, r.WithContext(tracing.WithRequestID(r.Context(), id)))
	})
}

// closeWhileDraining ends each connection with its next answer once the node drains.
func (a *App) closeWhileDraining(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-a.draining:
			w.Header().Set("Connection", "close")
		default:
		}
		handler.ServeHTTP(w, r)
	})
}

// isRequestID reports whether the caller's id has 1 to 128 visible ASCII characters, and no card
// number: it is logged.
func isRequestID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return !cards.In(id)
}

// logRequests logs one line per request, after its error has been answered. The line of a refused
// request names the peer and the customer.
func (a *App) logRequests(pages *web.Web) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			begin := time.Now()
			a.warnOfForwarding(c)
			ctx := c.Request().Context()
			if err := next(c); err != nil {
				c.Error(err)
			}
			status := c.Response().Status
			if status >= http.StatusInternalServerError && errors.Is(ctx.Err(), context.Canceled) {
				status = statusClientGone
			}
			observe(c, status, begin)
			fields := append(api.LogFields(c), "status", status,
				"duration", time.Since(begin).Round(time.Microsecond),
				"replayed", c.Response().Header().Get("Idempotent-Replayed") != "")
			switch status {
			case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
				refusedRequests.WithLabelValues(strconv.Itoa(status)).Inc()
				fields = append(fields, a.who(c, pages)...)
			}
			a.log.InfoContext(ctx, "request", fields...)
			a.audit(c, pages, status)
			return nil
		}
	}
}

// who returns the peer, and the customer or guest if the request is of one.
func (a *App) who(c echo.Context, pages *web.Web) []any {
	fields := []any{"peer", c.RealIP()}
	if customer, ok := api.CustomerOf(c); ok {
		return append(fields, "customer_id", customer.ID)
	}
	if id := pages.VisitorID(c); id != uuid.Nil {
		fields = append(fields, "customer_id", id)
	}
	return fields
}

// auditTimeout bounds the look-up of an operator's name.
const auditTimeout = 2 * time.Second

// audit logs what an operator did, with the operator's name.
func (a *App) audit(c echo.Context, pages *web.Web, status int) {
	if method := c.Request().Method; method == http.MethodGet || method == http.MethodHead {
		return
	}
	operator, ok := api.CustomerOf(c)
	if !ok {
		operator, ok = pages.OperatorOf(c)
	}
	if !ok || !operator.Admin {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request().Context()), auditTimeout)
	defer cancel()
	fields := append(api.LogFields(c), "status", status, "peer", c.RealIP(), "customer_id", operator.ID)
	name, err := a.accounts.Email(ctx, operator.ID)
	if err != nil {
		fields = append(fields, "error", err)
	}
	a.log.InfoContext(ctx, "an operator acted", append(fields, "operator", name)...)
}

// warnOfForwarding logs one warning if a peer that is not a trusted proxy forwards requests: all
// its clients then count as one.
func (a *App) warnOfForwarding(c echo.Context) {
	header := c.Request().Header
	if !a.role.Web || header.Get("X-Forwarded-For") == "" && header.Get("X-Real-Ip") == "" &&
		header.Get("Forwarded") == "" {
		return
	}
	peer, err := netip.ParseAddrPort(c.Request().RemoteAddr)
	if err != nil || a.trusts(peer.Addr().Unmap()) {
		return
	}
	a.warnedOfForwarding.Do(func() {
		a.log.WarnContext(c.Request().Context(), "requests come through a proxy that is not named: all its clients "+
			"count as one, and share one rate limit", "peer", peer.Addr(), "setting", "SHOP_TRUSTED_PROXIES")
	})
}

// trusts reports whether the address is of a trusted proxy.
func (a *App) trusts(peer netip.Addr) bool {
	return slices.ContainsFunc(a.proxies, func(network netip.Prefix) bool { return network.Contains(peer) })
}
