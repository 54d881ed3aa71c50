package payments

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// outcome is what the provider said of a charge, to whoever held this attempt.
type outcome struct {
	row     paymentsdb.Charge
	capture Capture
	attempt int32
}

// errAlone leaves an outcome to a transaction of its own: the charge is settled already, or its order does not wait for it any more.
var errAlone = errors.New("payments: more follows from this outcome than a batch does")

// settleAll stores outcomes that came at the same time. An error means that nothing was stored.
func (s *Service) settleAll(ctx context.Context, all []outcome) (settled []coalesce.Outcome[paymentsdb.Charge], err error) {
	ctx, cancel := context.WithTimeout(ctx, togetherTimeout)
	defer cancel()
	err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
		settled, err = s.settleAllTx(ctx, tx, all)
		return err
	})
	return settled, shared(err)
}

func (s *Service) settleAllTx(ctx context.Context, tx *pg.Pipe, all []outcome) ([]coalesce.Outcome[paymentsdb.Charge], error) {
	locked, rows, err := s.lockBothTx(ctx, tx, all)
	if err != nil {
		return nil, err
	}
	settled := make([]coalesce.Outcome[paymentsdb.Charge], len(all))
	var p paymentsdb.SettleChargesParams
	var steps []orders.Step
	for i, o := range all {
		row, order := rows[o.row.ID], locked[o.row.OrderID]
		switch {
		case row.Answer != nil || order.Status != orders.Paying:
			settled[i].Err = errAlone
			continue
		case row.Attempt != o.attempt:
			settled[i].Err = errStale
			continue
		}
		if err := decide(&row, o.capture); err != nil {
			return nil, err
		}
		rows[row.ID] = row // a twin in this batch finds it settled
		settled[i].Answer = row
		p.Ids, p.Statuses = append(p.Ids, row.ID), append(p.Statuses, row.Status)
		p.ProviderIds, p.DeclineCodes = append(p.ProviderIds, o.capture.ID), append(p.DeclineCodes, o.capture.DeclineCode)
		p.AnswerStatuses, p.Answers = append(p.AnswerStatuses, *row.AnswerStatus), append(p.Answers, row.Answer)
		steps = append(steps, orders.Step{Order: order, To: statusAfter(row)})
	}
	if len(steps) == 0 {
		return settled, nil
	}
	if err := paymentsdb.New(tx).SettleCharges(ctx, p); err != nil {
		return nil, fmt.Errorf("settle the charges: %w", err)
	}
	return settled, s.orders.QueueSteps(ctx, tx, steps)
}

// lockBothTx takes the locks of the orders before those of the charges, as everybody does.
func (s *Service) lockBothTx(ctx context.Context, tx *pg.Pipe, all []outcome) (map[uuid.UUID]orders.Order, map[uuid.UUID]paymentsdb.Charge, error) {
	locked, rows := map[uuid.UUID]orders.Order{}, map[uuid.UUID]paymentsdb.Charge{}
	orderIDs, ids := make([]uuid.UUID, len(all)), make([]uuid.UUID, len(all))
	for i, o := range all {
		orderIDs[i], ids[i] = o.row.OrderID, o.row.ID
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	var found []paymentsdb.Charge
	s.orders.QueueLock(tx, orderIDs, locked)
	tx.Queue(paymentsdb.LockCharges, slices.Compact(ids)).Query(pg.Into(&found))
	if err := tx.Flush(ctx); err != nil {
		return nil, nil, fmt.Errorf("lock the orders and their charges: %w", err)
	}
	for _, row := range found {
		rows[row.ID] = row
	}
	return locked, rows, nil
}

// statusAfter is where a charge that was waited for leaves its order.
func statusAfter(row paymentsdb.Charge) orders.Status {
	if row.Status == string(Succeeded) {
		return orders.Paid
	}
	return orders.Placed
}
