package tracing_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/onceshop/onceshop/internal/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	caller  = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	callers = "0af7651916cd43dd8448eb211c80319c"
)

func traced(t *testing.T) (context.Context, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	return tracing.With(t.Context(), sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test")), spans
}

func TestNothingIsTracedWithoutATracer(t *testing.T) {
	t.Parallel()
	ctx, span := tracing.Start(tracing.With(t.Context(), nil), "work")
	tracing.End(span, errors.New("failed"))
	if tracing.On(ctx) || tracing.Parent(ctx) != "" || ctx != t.Context() {
		t.Error("a context without a tracer has a span")
	}
	batch, span := tracing.Batch("batch", []tracing.Caller{{Context: ctx, About: uuid.New()}})
	span.End()
	if tracing.On(batch) || tracing.ParentOf(batch, uuid.New()) != "" {
		t.Error("a batch without a tracer has a span")
	}
}

func TestCallersTraceGoesOn(t *testing.T) {
	t.Parallel()
	ctx, spans := traced(t)
	for _, malformed := range []string{"", "00", caller + "0", strings.ToUpper(caller), "\r\n"} {
		if tracing.Parent(tracing.Below(ctx, malformed)) != "" {
			t.Errorf("%q has a span", malformed)
		}
	}
	if got := tracing.Parent(tracing.Below(ctx, caller)); got != caller {
		t.Errorf("got %s", got)
	}
	below, span := tracing.Start(tracing.Below(ctx, caller), "work")
	tracing.End(span, nil)
	if got := spans.GetSpans()[0]; got.SpanContext.TraceID().String() != callers || !got.Parent.IsRemote() {
		t.Errorf("span %+v", got)
	}
	if !strings.HasPrefix(tracing.Parent(below), "00-"+callers) ||
		tracing.ParentOf(tracing.Inherit(below), uuid.New()) != "" {
		t.Error("the parent of an event is wrong")
	}
}

// Of an error a span keeps the type of its cause: its text can quote what a buyer entered.
func TestSpansHaveNoTextsOfErrors(t *testing.T) {
	t.Parallel()
	ctx, spans := traced(t)
	_, span := tracing.Start(ctx, "work")
	tracing.End(span, fmt.Errorf("alice@example.com: %w", errors.Join(fmt.Errorf("b: %w", &json.SyntaxError{}))))
	got := spans.GetSpans()[0]
	if got.Status.Code != codes.Error || got.Status.Description != "" || len(got.Events) != 0 ||
		len(got.Attributes) != 1 || got.Attributes[0].Value.AsString() != "*json.SyntaxError" {
		t.Errorf("span %+v", got)
	}
}

func TestLogLinesHaveIDs(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	log := slog.New(tracing.Handler{Handler: slog.NewTextHandler(&text, nil)}).With("node", 1)
	ctx := tracing.Below(tracing.WithRequestID(t.Context(), "r1"), caller)
	log.InfoContext(ctx, "hello")
	log.InfoContext(t.Context(), "bye")
	hello, bye, _ := strings.Cut(text.String(), "\n")
	if !strings.HasSuffix(hello, "msg=hello node=1 request_id=r1 trace_id="+callers) ||
		!strings.HasSuffix(bye, "msg=bye node=1\n") {
		t.Errorf("got %s", text.String())
	}
}

// The exporter speaks OTLP to a collector, with the headers and the names of the environment.
func TestExport(t *testing.T) {
	t.Parallel()
	var sent tracepb.TracesData
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || proto.Unmarshal(body, &sent) != nil || r.URL.Path != "/v1/traces" ||
			r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer collector.Close()
	provider, err := tracing.Open(t.Context(), tracing.Export{OTLPEndpoint: collector.URL + "/",
		OTLPHeaders: "authorization=Bearer%20x, tenant=1", OTLPTimeout: 5000}, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	_, span := provider.Tracer("test").Start(t.Context(), "work")
	span.End()
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := sent.GetResourceSpans()
	if len(all) != 1 || all[0].GetScopeSpans()[0].GetSpans()[0].GetName() != "work" {
		t.Fatalf("sent %v", &sent)
	}
	if text := all[0].GetResource().String(); !strings.Contains(text, "onceshop") ||
		!strings.Contains(text, "1.2.3") {
		t.Errorf("resource %s", text)
	}
}

func TestExportSettings(t *testing.T) {
	t.Parallel()
	for _, off := range []tracing.Export{{}, {OTLPEndpoint: "http://127.0.0.1:1", OTELDisabled: true}} {
		if provider, err := tracing.Open(t.Context(), off, ""); provider != nil || err != nil {
			t.Errorf("%+v: %v, %v", off, provider, err)
		}
	}
	for name, wrong := range map[string]tracing.Export{
		"OTEL_EXPORTER_OTLP_PROTOCOL":    {OTLPEndpoint: "http://127.0.0.1:1", OTLPProtocol: "grpc"},
		"OTEL_EXPORTER_OTLP_ENDPOINT":    {OTLPEndpoint: "127.0.0.1:4318"},
		"OTEL_EXPORTER_OTLP_HEADERS":     {OTLPEndpoint: "http://127.0.0.1:1", OTLPHeaders: "a=%zz"},
		"OTEL_EXPORTER_OTLP_CERTIFICATE": {OTLPTracesEndpoint: "http://127.0.0.1:1", OTLPCertificate: "/no/such/file"},
	} {
		if _, err := tracing.Open(t.Context(), wrong, ""); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
