package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/internal/paymentsdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// Charges that are started, or settled, at the same moment share a transaction.
const (
	// maxTogether is how many charges one transaction starts or settles.
	maxTogether = 256
	// maxWaiting bounds each queue.
	maxWaiting = 4096
	// togetherTimeout bounds one batch, whoever still waits for it.
	togetherTimeout = 8 * time.Second
)

// start is what beginning a charge came to: it was started now; or its key has a row already; or, with neither, the order takes no charge.
type start struct {
	row     paymentsdb.Charge
	started bool
	order   orders.Order
}

// startAll stores the attempts of requests that came at the same time, each with an outcome of its own. An error means that nothing was stored.
func (s *Service) startAll(ctx context.Context, requests []ChargeOrder) (outcomes []coalesce.Outcome[start], err error) {
	ctx, cancel := context.WithTimeout(ctx, togetherTimeout)
	defer cancel()
	err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
		outcomes, err = s.startAllTx(ctx, tx, requests)
		return err
	})
	if errors.Is(err, pg.ErrCommitUnknown) {
		for i := range outcomes {
			if outcomes[i].Answer.started {
				outcomes[i].Err = err
			}
		}
		return outcomes, nil
	}
	return outcomes, shared(err)
}

// shared tells the coalescer of a failure that is nobody's own.
func shared(err error) error {
	if pg.IsUnavailable(err) {
		return errors.Join(coalesce.ErrShared, err)
	}
	return err
}

// scope is what an idempotency key is unique in.
type scope struct {
	customer uuid.UUID
	key      string
}

func (c ChargeOrder) scope() scope { return scope{c.CustomerID, string(c.Key)} }

func (s *Service) startAllTx(ctx context.Context, tx *pg.Pipe, requests []ChargeOrder) ([]coalesce.Outcome[start], error) {
	locked, byKey, err := s.lookTx(ctx, tx, requests)
	if err != nil {
		return nil, err
	}
	outcomes := make([]coalesce.Outcome[start], len(requests))
	fresh := map[uuid.UUID]int{} // by order: which request is the first to pay for it
	for i, c := range requests {
		order, ok := locked[c.OrderID]
		row, used := byKey[c.scope()]
		switch {
		case used:
			outcomes[i].Answer.row = row
		case !ok || order.CustomerID != c.CustomerID:
			outcomes[i].Err = orders.ErrNotFound
		default:
			outcomes[i].Answer.order = order
			if _, taken := fresh[order.ID]; order.Status == orders.Placed && !taken {
				fresh[order.ID] = i
			}
		}
	}
	if len(fresh) == 0 {
		return outcomes, nil
	}
	rows, err := s.insertTx(ctx, tx, requests, locked, fresh)
	if err != nil {
		return nil, err
	}
	var steps []orders.Step
	for _, row := range rows {
		outcomes[fresh[row.OrderID]].Answer = start{row: row, started: true}
		steps = append(steps, orders.Step{Order: locked[row.OrderID], To: orders.Paying})
	}
	return outcomes, s.orders.QueueSteps(ctx, tx, steps)
}

// lookTx locks the orders before it looks for the keys: what a twin has stored is seen.
func (s *Service) lookTx(ctx context.Context, tx *pg.Pipe, requests []ChargeOrder) (map[uuid.UUID]orders.Order, map[scope]paymentsdb.Charge, error) {
	locked, byKey := map[uuid.UUID]orders.Order{}, map[scope]paymentsdb.Charge{}
	orderIDs, customers, keys := make([]uuid.UUID, len(requests)), make([]uuid.UUID, len(requests)), make([]string, len(requests))
	for i, c := range requests {
		orderIDs[i], customers[i], keys[i] = c.OrderID, c.CustomerID, string(c.Key)
	}
	var found []paymentsdb.Charge
	s.orders.QueueLock(tx, orderIDs, locked)
	tx.Queue(paymentsdb.FindChargesByKeys, customers, keys).Query(pg.Into(&found))
	if err := tx.Flush(ctx); err != nil {
		return nil, nil, fmt.Errorf("lock the orders and find the charges by their keys: %w", err)
	}
	for _, row := range found {
		byKey[scope{row.CustomerID, row.IdempotencyKey}] = row
	}
	return locked, byKey, nil
}

// insertTx returns the charges that met no unique key.
func (s *Service) insertTx(ctx context.Context, tx *pg.Pipe, requests []ChargeOrder, locked map[uuid.UUID]orders.Order, fresh map[uuid.UUID]int) ([]paymentsdb.Charge, error) {
	var p paymentsdb.InsertChargesParams
	for orderID, i := range fresh {
		c, order := requests[i], locked[orderID]
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make a charge id: %w", err)
		}
		fingerprint := c.Fingerprint()
		p.Ids, p.OrderIds, p.CustomerIds = append(p.Ids, id), append(p.OrderIds, order.ID), append(p.CustomerIds, c.CustomerID)
		p.IdempotencyKeys, p.Fingerprints = append(p.IdempotencyKeys, string(c.Key)), append(p.Fingerprints, fingerprint[:])
		p.PaymentMethods, p.Amounts, p.Currencies = append(p.PaymentMethods, c.PaymentMethod), append(p.Amounts, order.Total), append(p.Currencies, order.Currency)
	}
	var rows []paymentsdb.Charge
	tx.Queue(paymentsdb.InsertCharges, s.timing.Lease, s.timestamp(), p.Ids, p.OrderIds, p.CustomerIds, p.IdempotencyKeys, p.Fingerprints,
		p.PaymentMethods, p.Amounts, p.Currencies).Query(pg.Into(&rows))
	if err := tx.Flush(ctx); err != nil {
		return nil, fmt.Errorf("insert the charges: %w", err)
	}
	return rows, nil
}

// refuse says what a request gets that could not be started: the answer of its own key, which a twin has used meanwhile, or why the order takes
// no charge.
func (s *Service) refuse(ctx context.Context, c ChargeOrder, order orders.Order) (dedup.Answer, error) {
	row, err := findByKey(ctx, s.db, c)
	if err == nil {
		return s.answer(row, c)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		err = s.refusal(ctx, s.db, order)
		s.noteRefusal(err)
	}
	return dedup.Answer{}, err
}
