package app

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/tracing"
)

// flushTimeout bounds how long a node that stops waits for the collector of its last spans.
const flushTimeout = 5 * time.Second

// openTraces sets the provider of the node's traces, if there is a place for them to go.
func (a *App) openTraces(ctx context.Context) error {
	provider, err := tracing.Open(ctx, a.config.Export, BuildInfo().Version)
	if err != nil {
		return err
	}
	if a.traces = a.config.Traces; provider != nil {
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
			a.log.Warn("traces were not exported", "error", err)
		}))
		a.traces = provider
		a.closeTraces = func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
			defer cancel()
			if err := provider.Shutdown(ctx); err != nil {
				a.log.WarnContext(ctx, "the last traces were not exported", "error", err)
			}
		}
	}
	if a.traces != nil {
		a.tracer = a.traces.Tracer("github.com/onceshop/onceshop")
	}
	return nil
}

// tracers returns the tracer of the database's pool, if there is one.
func (a *App) tracers() []pgx.QueryTracer {
	if a.traces == nil {
		return nil
	}
	return []pgx.QueryTracer{pg.NewTracer(a.traces)}
}

// trace makes each request a span, below the one that the caller names. Probes, static files and
// pages with live updates are left out: there are many, or they last for hours.
func (a *App) trace(next echo.HandlerFunc) echo.HandlerFunc {
	if a.tracer == nil {
		return next
	}
	return func(c echo.Context) error {
		request := c.Request()
		method, route := labels(c)
		if route == "/healthz" || route == "/readyz" || strings.HasPrefix(route, "/static/") ||
			strings.HasSuffix(route, "/events") {
			return next(c)
		}
		ctx := tracing.Below(tracing.With(request.Context(), a.tracer), request.Header.Get(tracing.Header))
		ctx, span := tracing.Start(ctx, method+" "+route, trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("http.request.method", method),
				attribute.String("http.route", route)))
		defer span.End()
		if a.webhooks[route] != nil {
			ctx = tracing.Inherit(ctx) // the provider's own request did not begin the order's trace
		}
		c.SetRequest(request.WithContext(ctx))
		err := next(c)
		status := c.Response().Status
		span.SetAttributes(attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
		fields := api.LogFields(c)[4:] // without method and route
		for i := 0; i+1 < len(fields); i += 2 {
			span.SetAttributes(attribute.String(fmt.Sprintf("onceshop.%v", fields[i]), fmt.Sprint(fields[i+1])))
		}
		return err
	}
}
