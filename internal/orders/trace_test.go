package orders_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/internal/tracing"
)

// Orders that share a transaction each keep the trace of their own request, and what a worker does
// with an order later belongs to it too.
func TestEachOrderKeepsItsTrace(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 100))
	spans := tracetest.NewInMemoryExporter()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test")
	traced := tracing.With(t.Context(), tracer)
	traces := shoptest.Race(40, func(i int) trace.TraceID {
		ctx, span := tracing.Start(traced, "request")
		defer span.End()
		if _, err := b.shop.Place(ctx, b.order(dedup.Key(fmt.Sprint("key-", i)), line("CUP", 1))); err != nil {
			t.Error(err)
		}
		return span.SpanContext().TraceID()
	})
	for i, id := range traces {
		if got := b.traceOf(t, fmt.Sprint("key-", i), orders.EventPlaced); got != id.String() {
			t.Errorf("order %d belongs to the trace %s, not %s", i, got, id)
		}
	}
	wantLinkedBatches(t, spans.GetSpans())

	b.place(t, b.order("untraced", line("CUP", 1)))
	hasty := orders.New(b.pool, time.Nanosecond, time.Now, slog.New(slog.DiscardHandler))
	b.exec(t, "UPDATE orders SET expires_at = now() - interval '1 hour'")
	if _, err := hasty.ExpireOnce(traced); err != nil {
		t.Fatal(err)
	}
	if got := b.traceOf(t, "key-0", orders.EventExpired); got != traces[0].String() {
		t.Errorf("the expiry belongs to the trace %q, not %s", got, traces[0])
	}
	for _, event := range []string{orders.EventPlaced, orders.EventExpired} {
		if got := b.traceOf(t, "untraced", event); got != "" {
			t.Errorf("an order without a trace got %q for %s", got, event)
		}
	}
}

// traceOf returns the id of the trace in which the event of the key's order was written.
func (b *bundle) traceOf(t testing.TB, key, event string) string {
	t.Helper()
	var parent string
	err := b.pool.QueryRow(t.Context(), `SELECT e.traceparent FROM outbox e JOIN orders o ON o.id = e.order_id
		WHERE o.idempotency_key = $1 AND e.type = $2`, key, event).Scan(&parent)
	if err != nil {
		t.Fatalf("%s of %s: %v", event, key, err)
	}
	if parent == "" {
		return ""
	}
	return strings.Split(parent, "-")[1]
}

// wantLinkedBatches fails unless each request leads to the batches that it shared, and some shared
// one.
func wantLinkedBatches(t *testing.T, spans tracetest.SpanStubs) {
	t.Helper()
	linked := map[trace.TraceID]map[trace.SpanID]bool{} // batches by the traces that lead to them
	shared := 0
	for _, span := range spans {
		id := span.SpanContext.TraceID()
		if linked[id] == nil {
			linked[id] = map[trace.SpanID]bool{}
		}
		if span.Name == "orders.place" {
			linked[id][span.SpanContext.SpanID()] = true
		}
		for _, link := range span.Links {
			if span.Name == "request" {
				linked[id][link.SpanContext.SpanID()] = true
			}
		}
	}
	for _, span := range spans {
		if span.Name != "orders.place" {
			continue
		}
		shared += len(span.Links)
		for _, link := range span.Links {
			if !linked[link.SpanContext.TraceID()][span.SpanContext.SpanID()] {
				t.Error("a request does not lead to its batch")
			}
		}
	}
	if shared == 0 {
		t.Error("no orders shared a batch")
	}
}

// BenchmarkPlace compares placing without and with a tracer.
func BenchmarkPlace(b *testing.B) {
	shop := setup(b)
	shop.deliver(b, line("CUP", 1_000_000))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(tracetest.NewNoopExporter()))
	b.Cleanup(func() { _ = provider.Shutdown(context.WithoutCancel(b.Context())) })
	for name, ctx := range map[string]context.Context{"untraced": b.Context(),
		"traced": tracing.With(b.Context(), provider.Tracer("test"))} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					ctx, span := tracing.Start(ctx, "request")
					order := shop.order(dedup.Key(uuid.NewString()), line("CUP", 1))
					if _, err := shop.shop.Place(ctx, order); err != nil {
						b.Error(err)
					}
					span.End()
				}
			})
		})
	}
}
