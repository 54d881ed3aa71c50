package lab

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/onceshop/onceshop/internal/payments"
)

// naiveShop is a shop as it is often written first, one value for each process. Its statements and
// its calls are drawn.
type naiveShop struct {
	run      string
	db       database
	provider payments.Provider
	memory   *naiveMemory

	bench   *Bench
	actor   Actor
	gateway *gateway
	// afterSelect, if set, is where requests wait that have looked and not yet written.
	afterSelect func(context.Context) error
}

// database is a pool or a transaction.
type database interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (b *Bench) naiveShop(actor Actor) *naiveShop {
	g := &gateway{Provider: b.PSP, bench: b, actor: actor}
	return &naiveShop{run: b.Name, db: b.Naive, provider: g, bench: b, actor: actor, gateway: g}
}

// exec runs a statement and returns how many rows it wrote.
func (s *naiveShop) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	tag, err := s.db.Exec(ctx, sql, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", caption(sql), err)
	}
	s.bench.Says(ctx, s.actor, Database, "%s: %s", caption(sql), rows(tag.RowsAffected()))
	return tag.RowsAffected(), nil
}

// find reads one value, if there is one.
func find[T any](ctx context.Context, s *naiveShop, sql string, args ...any) (value T, found bool, err error) {
	err = s.db.QueryRow(ctx, sql, args...).Scan(&value)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		s.bench.Says(ctx, s.actor, Database, "%s: 0 rows", caption(sql))
	case err != nil:
		return value, false, fmt.Errorf("%s: %w", caption(sql), err)
	default:
		found = true
		s.bench.Says(ctx, s.actor, Database, "%s: %s", caption(sql), shown(value))
	}
	if s.afterSelect != nil {
		return value, found, s.afterSelect(ctx)
	}
	return value, found, nil
}

var inParentheses = regexp.MustCompile(`( VALUES)? \([^)]*\)`)

// caption is what a diagram has room for of a statement.
func caption(sql string) string {
	sql, _, _ = strings.Cut(sql, " WHERE ")
	return inParentheses.ReplaceAllString(sql, "")
}

func rows(n int64) string {
	if n == 1 {
		return "1 row"
	}
	return fmt.Sprintf("%d rows", n)
}

func shown(value any) string {
	if id, ok := value.(uuid.UUID); ok {
		return short(id.String())
	}
	return fmt.Sprint(value)
}

// countOrders expects this many orders.
func (s *naiveShop) countOrders(want int) {
	s.bench.Count("orders", "table orders", want, func(ctx context.Context) (int, error) {
		return Rows(ctx, s.bench.Naive, "SELECT count(*) FROM orders WHERE run = $1", s.run)
	})
}

// countCaptures expects one.
func (s *naiveShop) countCaptures() {
	s.bench.Count("captures", "the provider's log", 1, func(ctx context.Context) (int, error) {
		return s.bench.capturesOf(ctx, s.bench.Naive, "SELECT id FROM orders WHERE run = $1", s.run)
	})
}
