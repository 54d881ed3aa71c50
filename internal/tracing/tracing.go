// Package tracing puts the shop's work into OpenTelemetry traces. A context carries the tracer and
// the span, so that code which starts a span needs only its context. Without a tracer in the
// context nothing is traced. Spans hold no personal data and no secrets: of an error they keep the
// type.
package tracing

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Header is the header of a request or a message that carries the caller's span, by W3C Trace
// Context.
const Header = "traceparent"

type (
	tracerKey  struct{}
	parentsKey struct{}
)

// With returns a context whose spans go to the tracer. A nil tracer traces nothing.
func With(ctx context.Context, tracer trace.Tracer) context.Context {
	if tracer == nil {
		return ctx
	}
	return context.WithValue(ctx, tracerKey{}, tracer)
}

func tracerOf(ctx context.Context) trace.Tracer {
	tracer, _ := ctx.Value(tracerKey{}).(trace.Tracer)
	return tracer
}

// On reports whether the context has a tracer.
func On(ctx context.Context) bool { return tracerOf(ctx) != nil }

// Start begins a span below the context's span, or a trace if there is none.
func Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	tracer := tracerOf(ctx)
	if tracer == nil {
		return ctx, noop.Span{}
	}
	return tracer.Start(ctx, name, options...)
}

// Continue begins a span if the context is part of a trace. Work that many traces share, or none,
// would otherwise make a trace of each of its steps.
func Continue(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, noop.Span{}
	}
	return Start(ctx, name, options...)
}

// End ends a span. A nil error leaves its status unset.
func End(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, "")
		span.SetAttributes(attribute.String("error.type", typeOf(err)))
	}
	span.End()
}

// typeOf returns the type of the error's cause.
func typeOf(err error) string {
	for {
		switch wrapper := err.(type) { //nolint:errorlint // every layer is looked at
		case interface{ Unwrap() error }:
			if wrapper.Unwrap() == nil {
				return fmt.Sprintf("%T", err)
			}
			err = wrapper.Unwrap()
		case interface{ Unwrap() []error }:
			if len(wrapper.Unwrap()) == 0 {
				return fmt.Sprintf("%T", err)
			}
			err = wrapper.Unwrap()[0]
		default:
			return fmt.Sprintf("%T", err)
		}
	}
}

// Below returns a context whose next span is a child of the traceparent's. A traceparent that is
// empty or malformed changes nothing.
func Below(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{Header: traceparent})
}

// Parent returns the traceparent of the context's span, or "".
func Parent(ctx context.Context) string {
	return traceparent(trace.SpanContextFromContext(ctx))
}

func traceparent(span trace.SpanContext) string {
	if !span.IsValid() {
		return ""
	}
	return fmt.Sprintf("00-%s-%s-%s", span.TraceID(), span.SpanID(), span.TraceFlags()&trace.FlagsSampled)
}

// Work begins the span of work for an order that no client waits for. It is the root of a trace,
// and the events of the work keep to the trace of the order's request.
func Work(ctx context.Context, name string) (context.Context, trace.Span) {
	return Start(Inherit(ctx), name)
}

// Inherit returns a context in which ParentOf returns "": the context's trace is not the one of the
// order's request.
func Inherit(ctx context.Context) context.Context {
	return context.WithValue(ctx, parentsKey{}, map[uuid.UUID]string{})
}

// ParentOf returns the traceparent for an event about the order: of the caller of the batch that
// came for the order or, outside a batch, of the context's span. It is empty in a context without a
// trace, and after Inherit.
func ParentOf(ctx context.Context, order uuid.UUID) string {
	if parents, ok := ctx.Value(parentsKey{}).(map[uuid.UUID]string); ok {
		return parents[order]
	}
	return Parent(ctx)
}

// Caller is one of the callers that share a batch. About is the order that it came for.
type Caller struct {
	Context context.Context //nolint:containedctx // a batch has the contexts of all its callers
	About   uuid.UUID
}

// Batch begins the span of work that several callers share. It is a child of the first caller's
// span that is recorded, and linked with the spans of the others, and these with it. The context
// has no deadline and no values of a caller. All callers have the same tracer, or none has one.
func Batch(name string, callers []Caller) (context.Context, trace.Span) {
	ctx := With(context.Background(), tracerOf(callers[0].Context))
	parents := make(map[uuid.UUID]string, len(callers))
	var recorded []trace.Span
	var links []trace.Link
	for _, caller := range callers {
		span := trace.SpanFromContext(caller.Context)
		if _, found := parents[caller.About]; !found {
			parents[caller.About] = ParentOf(caller.Context, caller.About)
		}
		if !span.IsRecording() {
			continue
		}
		if recorded = append(recorded, span); len(recorded) > 1 {
			links = append(links, trace.Link{SpanContext: span.SpanContext()})
		}
	}
	ctx = context.WithValue(ctx, parentsKey{}, parents)
	if len(recorded) == 0 {
		return ctx, noop.Span{}
	}
	ctx, span := Start(trace.ContextWithSpan(ctx, recorded[0]), name, trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("onceshop.batch.size", len(callers))))
	for _, other := range recorded[1:] {
		other.AddLink(trace.Link{SpanContext: span.SpanContext()})
	}
	return ctx, span
}
