package pg

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
)

// tracer traces statements under their names in db/queries, without their text, parameters and
// error messages.
type tracer struct{ *otelpgx.Tracer }

// NewTracer returns a tracer for Open. It traces the statements of contexts with a recorded span.
func NewTracer(provider trace.TracerProvider) pgx.QueryTracer {
	return tracer{otelpgx.NewTracer(otelpgx.WithTracerProvider(provider),
		otelpgx.WithMeterProvider(noop.MeterProvider{}), otelpgx.WithSpanNameCtxFunc(queryName),
		otelpgx.WithQuerySpanNamePrefix(), otelpgx.WithDisableSQLStatementInAttributes(),
		otelpgx.WithDisableConnectionDetailsInAttributes())}
}

// queryName returns the name that sqlc writes above a query, or the statement's first word.
func queryName(ctx context.Context, sql string) string {
	if rest, ok := strings.CutPrefix(sql, "-- name: "); ok {
		name, _, _ := strings.Cut(rest, " ")
		return name
	}
	return otelpgx.SQLOperationName(ctx, sql)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (t tracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	data.Err = withoutText(data.Err)
	t.Tracer.TraceQueryEnd(ctx, conn, data)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (t tracer) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	data.Err = withoutText(data.Err)
	t.Tracer.TraceBatchQuery(ctx, conn, data)
}

// TraceBatchEnd implements pgx.BatchTracer.
func (t tracer) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	data.Err = withoutText(data.Err)
	t.Tracer.TraceBatchEnd(ctx, conn, data)
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (t tracer) TracePrepareEnd(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareEndData) {
	data.Err = withoutText(data.Err)
	t.Tracer.TracePrepareEnd(ctx, conn, data)
}

// withoutText returns the kind of the error. Its message can quote a value.
func withoutText(err error) error {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		return &pgconn.PgError{Severity: answer.Severity, Code: answer.Code, Message: "refused"}
	}
	if err == nil || errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return fmt.Errorf("%T", err) //nolint:err113 // the type is all that is kept
}
