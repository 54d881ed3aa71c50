package api

import (
	"io"
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/onceshop/onceshop/internal/payments"
)

var refusedWebhooks = promauto.NewCounter(prometheus.CounterOpts{
	Name: "onceshop_webhooks_refused_total",
	Help: "Webhooks without a valid, recent signature (many of them: look at the secret and the clock).",
})

// EventReader checks that the provider signed a webhook and decodes it. Its error wraps
// payments.ErrNotSigned.
type EventReader func(header http.Header, body []byte) (payments.Event, error)

// receiveEvent stores a provider's event. It answers 204 if the event is applied, was applied
// before, or is kept for an operator.
func (a *API) receiveEvent(read EventReader) echo.HandlerFunc {
	return func(c echo.Context) error {
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return cutBody(err, "did not arrive whole and in time")
		}
		event, err := read(c.Request().Header, body)
		if err != nil {
			// Only unsigned requests count, so the provider is never throttled.
			if tooMany := a.Limits.Guest(c.RealIP()); tooMany != nil {
				return tooMany
			}
			refusedWebhooks.Inc()
			a.Log.WarnContext(c.Request().Context(), "webhook refused", "error", err)
			return err
		}
		c.Set(objectID, event.ID)
		if err := a.Payments.Receive(c.Request().Context(), event); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	}
}
