package pg_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/onceshop/onceshop/internal/pg"
)

// Spans have the names of statements, and neither their parameters nor what an error quotes of
// them.
func TestSpansOfStatements(t *testing.T) {
	t.Parallel()
	_, url := setup(t)
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	pool, err := pg.Open(t.Context(), url, 1, pg.NewTracer(provider))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := pool.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := spans.GetSpans(); len(got) > 0 {
		t.Errorf("%d spans of no request", len(got))
	}
	ctx, request := provider.Tracer("test").Start(t.Context(), "request")
	const parse = "-- name: Parse :one\nSELECT $1::text::int"
	var n int
	if err := pool.QueryRow(ctx, parse, "secret").Scan(&n); err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("the error quotes nothing: %v", err)
	}
	batch := &pgx.Batch{}
	batch.Queue("SET LOCAL lock_timeout = 1")
	batch.Queue(parse, "secret")
	if err := pool.SendBatch(ctx, batch).Close(); err == nil {
		t.Error("no error in the batch")
	}
	request.End()
	var names []string
	for _, span := range spans.GetSpans() {
		names = append(names, span.Name)
		if text := fmt.Sprint(span.Attributes, span.Events, span.Status); strings.Contains(text, "secret") {
			t.Errorf("%s shows a parameter: %s", span.Name, text)
		}
	}
	all := strings.Join(names, ", ")
	for _, want := range []string{"query Parse", "batch query SET", "batch query Parse", "pool.acquire"} {
		if !strings.Contains(all, want) {
			t.Errorf("no span %q among %s", want, all)
		}
	}
}
