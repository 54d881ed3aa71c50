// Package orders keeps orders and stock. One transaction inserts an order under the customer's
// idempotency key, with its lines, its reservation of stock and its event. The package does not
// depend on how orders are paid.
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
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// ErrNotFound reports an order that does not exist or belongs to another customer.
var ErrNotFound = errors.New("orders: no such order")

// UnknownSKUError lists the SKUs of a request that the shop does not sell.
type UnknownSKUError struct{ SKUs []string }

func (e UnknownSKUError) Error() string {
	return "unknown sku: " + strings.Join(e.SKUs, ", ")
}

// PriceChangedError reports that the order does not cost what the buyer was shown. Total and
// Currency are today's.
type PriceChangedError struct {
	Total    int64
	Currency string
}

func (e PriceChangedError) Error() string {
	return "the order now costs " + money.Format(e.Total, e.Currency)
}

// OutOfStockError lists the SKUs with too few units. Nothing was reserved: an order gets all its
// units or none.
type OutOfStockError struct{ Items []Shortage }

// Shortage is a product of which an order asked for more units than are available.
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

// Order is an order as the API returns it. Money is in minor units of Currency.
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

// Line is one line of an order, with the name and price at the time of the order.
type Line struct {
	SKU       string `json:"sku"`
	Name      string `json:"name"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
	Amount    int64  `json:"amount"`
}

// Product is a product on sale. Available is the number of units that are not reserved or sold.
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

	looking *coalesce.Batcher[request, seen]
	placing *coalesce.Batcher[draft, dedup.Answer]
}

// DefaultExpiry is how long an unpaid order reserves its stock.
const DefaultExpiry = 30 * time.Minute

// New returns a service on the pool's database. An unpaid order reserves its stock for the time
// expiry, and up to twice as long while it is being paid, by the database's clock. The clock now
// only sets the times that clients see.
func New(pool *pgxpool.Pool, expiry time.Duration, now func() time.Time, log *slog.Logger) *Service {
	s := &Service{pool: pool, db: ordersdb.New(pg.Patient{Pool: pool}), expiry: expiry, now: now, log: log}
	s.looking = coalesce.New(s.lookBatch())
	s.placing = coalesce.New(s.placeBatch())
	return s
}

// timestamp has the precision of Postgres, so that answers and rows agree.
func (s *Service) timestamp() time.Time {
	return s.now().UTC().Truncate(time.Microsecond)
}
