// Package orders owns orders and stock: an order, its lines, its reservation and its event come into being in one
// transaction, under the customer's idempotency key. It does not know how orders are paid.
package orders

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
)

// ErrNotFound reports an order that does not exist or is somebody else's.
var ErrNotFound = errors.New("orders: no such order")

// UnknownSKUError names the products of a request that the shop does not have.
type UnknownSKUError struct{ SKUs []string }

func (e UnknownSKUError) Error() string {
	return "unknown sku: " + strings.Join(e.SKUs, ", ")
}

// OutOfStockError lists what could not be reserved. Nothing was: an order is taken whole or not at all.
type OutOfStockError struct{ Items []Shortage }

// Shortage is one product that an order asked too much of, in units.
type Shortage struct {
	SKU       string `json:"sku"`
	Requested int64  `json:"requested"`
	Available int64  `json:"available"`
}

func (e OutOfStockError) Error() string {
	short := make([]string, len(e.Items))
	for i, item := range e.Items {
		short[i] = fmt.Sprintf("%s (asked for %d, %d left)", item.SKU, item.Requested, item.Available)
	}
	return "out of stock: " + strings.Join(short, ", ")
}

// Order as the API shows it. Money is in minor units of Currency.
type Order struct {
	ID         uuid.UUID `json:"id"`
	CustomerID uuid.UUID `json:"-"`
	Status     Status    `json:"status"`
	Email      string    `json:"email"`
	Currency   string    `json:"currency"`
	Total      int64     `json:"total"`
	Lines      []Line    `json:"lines"`
	CreatedAt  time.Time `json:"created_at"`
}

// Line is one line of an order, with name and price as they were when it was placed.
type Line struct {
	SKU       string `json:"sku"`
	Name      string `json:"name"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
	Amount    int64  `json:"amount"`
}

// Product as the shop sells it. Available is what can still be promised, in units.
type Product struct {
	SKU         string `json:"sku"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Currency    string `json:"currency"`
	UnitPrice   int64  `json:"unit_price"`
	Available   int64  `json:"available"`
}

// Service places and keeps orders and stock.
type Service struct {
	pool   *pgxpool.Pool
	db     *ordersdb.Queries
	expiry time.Duration
	now    func() time.Time
	log    *slog.Logger

	looking *coalesce.Batcher[PlaceOrder, seen]
	placing *coalesce.Batcher[draft, dedup.Answer]
}

// DefaultExpiry is how long an unpaid order keeps its stock.
const DefaultExpiry = 30 * time.Minute

// New returns a service on the pool's database. An unpaid order keeps its stock for the time expiry. Leases
// and deadlines use the database's clock; now dates what people see.
func New(pool *pgxpool.Pool, expiry time.Duration, now func() time.Time, log *slog.Logger) *Service {
	s := &Service{pool: pool, db: ordersdb.New(pool), expiry: expiry, now: now, log: log}
	s.looking = coalesce.New(maxBatch, maxWaiting, s.look)
	s.placing = coalesce.New(maxBatch, maxWaiting, s.place)
	return s
}

// timestamp is what Postgres can keep: the answer and the row must tell the same time.
func (s *Service) timestamp() time.Time {
	return s.now().UTC().Truncate(time.Microsecond)
}
