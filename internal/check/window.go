package check

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/payments"
)

// The orders and charges of a check that looks back for a while: those that had a change since
// then, whatever their age.
const (
	changedOrders = `
		SELECT order_id FROM outbox WHERE id >= @since_id::uuid
		UNION SELECT order_id FROM charges WHERE id >= @since_id::uuid OR status IN ('pending', 'unknown')
		UNION SELECT c.order_id FROM refunds r JOIN charges c ON c.id = r.charge_id
			WHERE r.started_at >= @since::timestamptz
		UNION SELECT c.order_id FROM provider_events e JOIN charges c ON c.id = e.charge_id
			WHERE e.received_at >= @since::timestamptz`
	changedCharges = "SELECT id FROM charges WHERE order_id = ANY (@orders::uuid[])"
)

// window stands for the tables. Each WITH query has the name of its table and holds the rows of the
// orders @orders with the charges @charges. Its conditions are on indexed columns. The ids are
// arguments, and not a WITH query of their own, for the planner to know how many they are.
const window = `
	WITH orders AS MATERIALIZED (SELECT * FROM orders WHERE id = ANY (@orders::uuid[])),
	order_lines AS (SELECT * FROM order_lines WHERE order_id = ANY (@orders::uuid[])),
	stock_movements AS (SELECT * FROM stock_movements WHERE order_id = ANY (@orders::uuid[])),
	cancellations AS (SELECT * FROM cancellations WHERE order_id = ANY (@orders::uuid[])),
	outbox AS (SELECT * FROM outbox WHERE order_id = ANY (@orders::uuid[])),
	receipts AS (SELECT * FROM receipts WHERE order_id = ANY (@orders::uuid[])),
	charges AS MATERIALIZED (SELECT * FROM charges WHERE id = ANY (@charges::uuid[])),
	refunds AS (SELECT * FROM refunds WHERE charge_id = ANY (@charges::uuid[])),
	disputes AS (SELECT * FROM disputes WHERE charge_id = ANY (@charges::uuid[])),
	deliveries AS (SELECT * FROM deliveries WHERE id >= @since_id::uuid),
	provider_events AS (SELECT * FROM provider_events WHERE state = 'received'
		OR received_at >= @since::timestamptz AND (state = 'quarantined' OR charge_id IS NULL
		OR charge_id = ANY (@charges::uuid[])))
`

// openWindow puts the ids of the window's orders and charges into args.
func openWindow(ctx context.Context, tx pgx.Tx, args pgx.NamedArgs) (err error) {
	if args["orders"], err = ids(ctx, tx, changedOrders, args); err == nil {
		args["charges"], err = ids(ctx, tx, changedCharges, args)
	}
	return err
}

// clockSkew is how far the clocks of nodes and witnesses may differ.
const clockSkew = 15 * time.Minute

// only keeps of what the witnesses saw what belongs to an order of the window, and what is recent
// and belongs to no order at all.
func (s *seen) only(ctx context.Context, tx pgx.Tx, since time.Time, args pgx.NamedArgs) error {
	orders, charges := set(args["orders"].([]uuid.UUID)), set(args["charges"].([]uuid.UUID))
	var askCharges, askOrders []uuid.UUID
	recent := func(at time.Time) bool { return at.After(since.Add(clockSkew)) }
	for _, c := range s.captures {
		if id, err := uuid.Parse(c.Reference); err == nil && recent(c.CreatedAt) {
			askCharges = append(askCharges, id)
		}
	}
	for _, m := range s.receipts {
		if id, err := uuid.Parse(m.orderID); err == nil && recent(m.created) {
			askOrders = append(askOrders, id)
		}
	}
	known, err := ids(ctx, tx, `SELECT id FROM charges WHERE id = ANY (@charges::uuid[])
		UNION ALL SELECT id FROM orders WHERE id = ANY (@orders::uuid[])`,
		pgx.NamedArgs{"charges": askCharges, "orders": askOrders})
	if err != nil {
		return err
	}
	old := set(known)
	held := map[string]bool{}
	s.captures = keep(s.captures, func(c payments.Capture) bool {
		held[c.ID] = charges[c.Reference] || recent(c.CreatedAt) && !old[c.Reference]
		return held[c.ID]
	})
	s.refunds = keep(s.refunds, func(r payments.ProviderRefund) bool { return held[r.CaptureID] })
	s.receipts = keep(s.receipts, func(m receipt) bool {
		return orders[m.orderID] || recent(m.created) && !old[m.orderID]
	})
	return nil
}

func keep[T any](all []T, wanted func(T) bool) (kept []T) {
	for _, one := range all {
		if wanted(one) {
			kept = append(kept, one)
		}
	}
	return kept
}

// ids returns the ids that the statement selects.
func ids(ctx context.Context, tx pgx.Tx, statement string, args pgx.NamedArgs) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, statement, args)
	if err != nil {
		return nil, fmt.Errorf("read the window: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("read the window: %w", err)
	}
	return list, nil
}

func set(ids []uuid.UUID) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id.String()] = true
	}
	return set
}
