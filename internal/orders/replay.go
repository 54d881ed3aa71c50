package orders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/pg"
)

// restoredSupplier is the supplier of units that an order took before a restore and that the
// restored stock lacks. Their delivery id is the order's id.
const restoredSupplier = "restored"

// ErrNoOrigin reports an event that does not tell what its change came from.
var ErrNoOrigin = errors.New("orders: the event does not tell what its change came from")

// origin is what a placed order came from. Answer is what the key is answered with, byte for byte.
type origin struct {
	CustomerID  uuid.UUID `json:"customer_id"`
	Key         dedup.Key `json:"idempotency_key"`
	Fingerprint []byte    `json:"fingerprint"`
	Answer      string    `json:"answer"`
}

func (d draft) origin() origin {
	return origin{d.order.CustomerID, d.key, d.fingerprint[:], string(d.body)}
}

// CustomerOf returns the customer of a placed order from its event.
func CustomerOf(event outbox.Event) (uuid.UUID, error) {
	var from origin
	err := OriginOf(event, &from)
	return from.CustomerID, err
}

// OriginOf decodes what an event's change came from, or returns ErrNoOrigin.
func OriginOf(event outbox.Event, into any) error {
	var data EventData
	err := json.Unmarshal(event.Data, &data)
	if err == nil && len(data.Origin) == 0 {
		return ErrNoOrigin
	}
	if err == nil {
		err = json.Unmarshal(data.Origin, into)
	}
	if err != nil {
		return fmt.Errorf("decode event %s: %w", event.ID, err)
	}
	return nil
}

// ReplayPlacedTx places an order again that a restore lost, with its id, its key and its answer. It
// books in what the stock lacks: the units were there when the order was placed. The context must
// be that of an outbox.Replay. The order's customer must exist.
func (s *Service) ReplayPlacedTx(ctx context.Context, tx *pg.Pipe, event outbox.Event) error {
	var from origin
	if err := OriginOf(event, &from); err != nil {
		return err
	}
	d := draft{key: from.Key, body: []byte(from.Answer)}
	copy(d.fingerprint[:], from.Fingerprint)
	if err := json.Unmarshal(d.body, &d.order); err != nil {
		return fmt.Errorf("decode the order: %w", err)
	}
	d.order.CustomerID = from.CustomerID
	d.units = map[string]int64{}
	for _, line := range d.order.Lines {
		d.units[line.SKU] += line.Quantity
	}
	if err := s.supplyTx(ctx, tx, d); err != nil {
		return err
	}
	outcomes, err := s.placeTx(ctx, tx, []draft{d})
	if err != nil {
		return err
	}
	return outcomes[0].Err
}

// supplyTx books in the units that a replayed order needs and the stock lacks.
func (s *Service) supplyTx(ctx context.Context, tx *pg.Pipe, d draft) error {
	db := ordersdb.New(tx)
	stock, err := db.LockStock(ctx, slices.Sorted(maps.Keys(d.units)))
	if err != nil {
		return fmt.Errorf("lock the stock: %w", err)
	}
	lines := ordersdb.InsertDeliveryLinesParams{Supplier: restoredSupplier}
	for i, row := range stock {
		if short := d.units[row.Sku] - row.Available; short > 0 {
			lines.DeliveryIds = append(lines.DeliveryIds, d.order.ID.String())
			lines.Lines = append(lines.Lines, int32(i+1))
			lines.Skus = append(lines.Skus, row.Sku)
			lines.Quantities = append(lines.Quantities, short)
		}
	}
	if len(lines.Skus) == 0 {
		return nil
	}
	if _, err := db.InsertDeliveryLines(ctx, lines); err != nil {
		return fmt.Errorf("book in what the stock lacks: %w", err)
	}
	_, err = db.RaiseStock(ctx, ordersdb.RaiseStockParams{Skus: lines.Skus, Quantities: lines.Quantities})
	return err
}

// ReplayTx changes the status of an order again as the event reports it.
func (s *Service) ReplayTx(ctx context.Context, tx *pg.Pipe, event outbox.Event) error {
	var data EventData
	if err := json.Unmarshal(event.Data, &data); err != nil {
		return fmt.Errorf("decode event %s: %w", event.ID, err)
	}
	locked := s.LockTx(tx, event.OrderID)
	if err := tx.Flush(ctx); err != nil {
		return fmt.Errorf("lock the order: %w", err)
	}
	return s.ChangeStatusTx(ctx, tx, locked, Change{OrderID: event.OrderID, To: data.Status})
}
