package outbox

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/internal/outboxdb"
	"github.com/onceshop/onceshop/internal/tracing"
)

// startPublishing begins a span for each event that has a trace, and puts it into the message's
// Traceparent. Without a tracer, that is the span that made the change.
func startPublishing(ctx context.Context, system string, rows []outboxdb.ClaimUnsentRow, messages []broker.Message,
) []trace.Span {
	spans := make([]trace.Span, len(rows))
	for i, row := range rows {
		spans[i] = noop.Span{}
		if row.Traceparent == "" {
			continue
		}
		event, span := tracing.Start(tracing.Below(ctx, row.Traceparent), "publish "+row.Type,
			trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(ofMessage(system, messages[i])...))
		spans[i] = span
		messages[i].Traceparent = tracing.Parent(event)
	}
	return spans
}

func endPublishing(spans []trace.Span, acks []broker.Ack) {
	for i, span := range spans {
		if acks[i].Duplicate {
			span.SetAttributes(attribute.Bool("onceshop.duplicate", true))
		}
		tracing.End(span, acks[i].Err)
	}
}

// startProcessing begins the span of handling a message, below the span that published it.
func (c *Consumer) startProcessing(ctx context.Context, m broker.Message) (context.Context, trace.Span) {
	if m.Traceparent == "" {
		return ctx, noop.Span{}
	}
	ctx, span := tracing.Start(tracing.Below(ctx, m.Traceparent), "process "+c.eventType,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(ofMessage(c.broker.Name(), m)...))
	span.SetAttributes(attribute.String("messaging.consumer.group.name", c.name))
	return ctx, span
}

func ofMessage(system string, m broker.Message) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("messaging.system", system),
		attribute.String("messaging.message.id", m.ID), attribute.String("onceshop.event.type", m.Type)}
}
