package orders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
)

const maxDeliveryLines = 1000

// apiSupplier is the supplier of deliveries from the API. Their delivery id is the delivery's own
// id.
const apiSupplier = "api"

// ReceiveDelivery is a request to raise stock. Its JSON is what the idempotency key stands for.
type ReceiveDelivery struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`

	Lines []LineRequest `json:"lines"`
}

// Fingerprint identifies what the request asks for.
func (c ReceiveDelivery) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(c) }

// Delivery is a delivery as the API returns it.
type Delivery struct {
	ID        uuid.UUID     `json:"id"`
	Lines     []LineRequest `json:"lines"`
	CreatedAt time.Time     `json:"created_at"`
}

// Receive raises stock, once per customer and key. It returns 201 with the delivery; replays and
// errors are those of Place.
func (s *Service) Receive(ctx context.Context, c ReceiveDelivery) (dedup.Answer, error) {
	if err := validateLines(c.Lines, maxDeliveryLines); err != nil {
		return dedup.Answer{}, err
	}
	return dedup.Once(ctx, dedup.Request{
		Fingerprint: c.Fingerprint(),
		Find:        func(ctx context.Context) (dedup.Row, error) { return s.findDelivery(ctx, c) },
		Do: func(ctx context.Context) (answer dedup.Answer, err error) {
			err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
				answer, err = s.receiveTx(ctx, tx, c)
				return err
			})
			return answer, err
		},
	})
}

func (s *Service) findDelivery(ctx context.Context, c ReceiveDelivery) (dedup.Row, error) {
	row, err := s.db.FindDeliveryByKey(ctx,
		ordersdb.FindDeliveryByKeyParams{CustomerID: c.CustomerID, IdempotencyKey: string(c.Key)})
	if errors.Is(err, pgx.ErrNoRows) {
		return dedup.Row{}, dedup.ErrNoRow
	}
	if err != nil {
		return dedup.Row{}, fmt.Errorf("find the delivery by its key: %w", err)
	}
	return dedup.Row{ID: row.ID, Fingerprint: row.Fingerprint, Answer: deliveryAnswer(row.ID, row.Answer)}, nil
}

// receiveTx inserts the delivery under its key, then its movements. It locks the stock rows last,
// because buyers wait for them.
func (s *Service) receiveTx(ctx context.Context, tx pgx.Tx, c ReceiveDelivery) (dedup.Answer, error) {
	db := ordersdb.New(tx)
	raise := units(c.Lines)
	known, err := db.GetProducts(ctx, slices.Collect(maps.Keys(raise)))
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("read the products: %w", err)
	}
	if len(known) < len(raise) {
		unknown := maps.Clone(raise)
		for _, product := range known {
			delete(unknown, product.Sku)
		}
		return dedup.Answer{}, UnknownSKUError{SKUs: slices.Sorted(maps.Keys(unknown))}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("make a delivery id: %w", err)
	}
	delivery := Delivery{ID: id, Lines: c.Lines, CreatedAt: s.timestamp()}
	body, err := json.Marshal(delivery)
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("encode the delivery: %w", err)
	}
	fingerprint := c.Fingerprint()
	inserted, err := db.InsertDelivery(ctx, ordersdb.InsertDeliveryParams{ID: id, CustomerID: c.CustomerID,
		IdempotencyKey: string(c.Key), Fingerprint: fingerprint[:], Answer: body, CreatedAt: delivery.CreatedAt})
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("insert the delivery: %w", err)
	}
	if inserted == 0 { // ON CONFLICT DO NOTHING
		return dedup.Answer{}, dedup.ErrKeyTaken
	}
	lines := ordersdb.InsertDeliveryLinesParams{Supplier: apiSupplier}
	for i, line := range c.Lines {
		lines.DeliveryIds = append(lines.DeliveryIds, id.String())
		lines.Lines = append(lines.Lines, int32(i+1))
		lines.Skus = append(lines.Skus, line.SKU)
		lines.Quantities = append(lines.Quantities, line.Quantity)
	}
	booked, err := db.InsertDeliveryLines(ctx, lines)
	if err != nil {
		return dedup.Answer{}, fmt.Errorf("insert the delivery's lines: %w", err)
	}
	if len(booked) != len(c.Lines) {
		return dedup.Answer{}, fmt.Errorf("insert the delivery's lines: %d of %d are new", len(booked), len(c.Lines))
	}
	return deliveryAnswer(id, body), raiseStockTx(ctx, db, raise)
}

// raiseStockTx adds units per SKU to the available stock.
func raiseStockTx(ctx context.Context, db *ordersdb.Queries, units map[string]int64) error {
	skus := slices.Sorted(maps.Keys(units))
	if _, err := db.LockStock(ctx, skus); err != nil {
		return fmt.Errorf("lock the stock: %w", err)
	}
	raise := ordersdb.RaiseStockParams{Skus: skus}
	for _, sku := range skus {
		raise.Quantities = append(raise.Quantities, units[sku])
	}
	raised, err := db.RaiseStock(ctx, raise)
	if err != nil {
		return fmt.Errorf("raise the stock: %w", err)
	}
	if int(raised) != len(skus) {
		return fmt.Errorf("raise the stock: %d of %d products have a row of stock", raised, len(skus))
	}
	return nil
}

func deliveryAnswer(id uuid.UUID, body []byte) dedup.Answer {
	return dedup.Answer{ID: id, Status: http.StatusCreated, Body: body, Final: true}
}
