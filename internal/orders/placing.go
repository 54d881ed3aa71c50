package orders

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
)

const (
	// maxTogether is how many orders one transaction places.
	maxTogether = 256
	// maxWaiting bounds the queue in front of it: more than this many buyers cannot be served in the time that they wait.
	maxWaiting = 4096
	// placeTimeout bounds one batch, whoever still waits for it.
	placeTimeout = 8 * time.Second
)

// outcome is what placing one order came to.
type outcome = coalesce.Outcome[dedup.Answer]

// wish is a command on its way through a batch.
type wish struct {
	PlaceOrder
	fingerprint dedup.Fingerprint
	order       Order
	body        []byte
	done        bool
	outcome
}

func (w *wish) end(answer dedup.Answer, err error) {
	w.done, w.outcome = true, outcome{Answer: answer, Err: err}
}

// scope is what an idempotency key is unique in.
type scope struct {
	customer uuid.UUID
	key      string
}

func (w *wish) scope() scope { return scope{w.CustomerID, string(w.Key)} }

// shared tells the coalescer of a failure that is nobody's own.
func shared(err error) error {
	if pg.IsUnavailable(err) {
		return errors.Join(coalesce.ErrShared, err)
	}
	return err
}

// placeAll places orders that came at the same time in one transaction, each with an outcome of its own as if it had come alone, in the
// order in which they came. An error means that nothing is known of any of them.
func (s *Service) placeAll(ctx context.Context, wishes []*wish) ([]outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	for _, w := range wishes {
		w.done = false // it may have been in a batch that failed
	}
	if err := s.placeWishes(ctx, wishes); err != nil {
		return nil, shared(err)
	}
	outcomes := make([]outcome, len(wishes))
	for i, w := range wishes {
		outcomes[i] = w.outcome
	}
	return outcomes, nil
}

func (s *Service) placeWishes(ctx context.Context, wishes []*wish) error {
	fresh := firsts(wishes)
	err := pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) error {
		err := s.placeTx(ctx, tx, fresh)
		crash.At(crash.PlaceBeforeCommit)
		return err
	})
	if err != nil && !errors.Is(err, pg.ErrCommitUnknown) {
		return err
	}
	crash.At(crash.PlaceCommitted)
	if err := s.afterCommit(ctx, wishes, err); err != nil {
		return err
	}
	// Twins of the first with a key: it has been placed now, or its outcome is theirs if they mean the same.
	if rest := pending(wishes); len(rest) > 0 {
		return s.placeTwins(ctx, wishes, rest)
	}
	return nil
}

// placeTx inserts the orders before it locks their stock, with the same round trip: twins meet at the unique key, and the stock rows that
// other nodes wait for are held for little more than one.
func (s *Service) placeTx(ctx context.Context, tx *pg.Pipe, wishes []*wish) error {
	var ids []insertedRow
	var stock []ordersdb.Stock
	s.queueInsert(tx, wishes).Query(pg.Into(&ids))
	tx.Queue(ordersdb.LockStock, skusOf(wishes)).Query(pg.Into(&stock))
	if err := tx.Flush(ctx); err != nil {
		return fmt.Errorf("insert the orders and lock the stock: %w", err)
	}
	inserted := make(map[uuid.UUID]bool, len(ids))
	for _, row := range ids {
		inserted[row.ID] = true
	}
	for _, w := range wishes {
		w.done = false // an earlier try may have ended in a deadlock
	}
	available := make(map[string]int64, len(stock))
	for _, row := range stock {
		available[row.Sku] = row.Available
	}
	return s.reserveTx(ctx, tx, handOut(wishes, inserted, available))
}

type insertedRow struct{ ID uuid.UUID }

func (s *Service) queueInsert(tx *pg.Pipe, wishes []*wish) *pgx.QueuedQuery {
	var p ordersdb.InsertOrdersParams
	for _, w := range wishes {
		p.Ids = append(p.Ids, w.order.ID)
		p.CustomerIds = append(p.CustomerIds, w.CustomerID)
		p.IdempotencyKeys = append(p.IdempotencyKeys, string(w.Key))
		p.Fingerprints = append(p.Fingerprints, w.fingerprint[:])
		p.Answers = append(p.Answers, w.body)
		p.Emails = append(p.Emails, w.order.Email)
		p.Currencies = append(p.Currencies, w.order.Currency)
		p.Totals = append(p.Totals, w.order.Total)
		p.CreatedAts = append(p.CreatedAts, w.order.CreatedAt)
	}
	return tx.Queue(ordersdb.InsertOrders, s.expiry, p.Ids, p.CustomerIds, p.IdempotencyKeys, p.Fingerprints, p.Answers, p.Emails, p.Currencies, p.Totals, p.CreatedAts)
}

// afterCommit ends the wishes whose keys another node took first and, when the commit's answer was lost, finds out which orders stand.
func (s *Service) afterCommit(ctx context.Context, wishes []*wish, commit error) error {
	if commit == nil {
		lost := pending(wishes)
		if len(lost) == 0 {
			return nil
		}
		return s.reread(ctx, lost)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rereadTimeout)
	defer cancel()
	unsure := slices.DeleteFunc(slices.Clone(wishes), func(w *wish) bool { return w.done && (w.Err != nil || w.Answer.Replayed) })
	for _, w := range unsure {
		w.done = false
	}
	if err := s.reread(ctx, unsure); err != nil {
		return errors.Join(commit, err)
	}
	for _, w := range pending(unsure) {
		w.end(dedup.Answer{}, commit)
	}
	for _, w := range unsure {
		if w.Err == nil && w.Answer.ID == w.order.ID {
			w.Answer.Replayed, w.Answer.StoppedBy = false, ""
		}
	}
	return nil
}

// placeTwins ends the wishes that shared a key with an earlier one of the batch.
func (s *Service) placeTwins(ctx context.Context, all, rest []*wish) error {
	first := map[scope]*wish{}
	for _, w := range all {
		if _, ok := first[w.scope()]; !ok {
			first[w.scope()] = w
		}
	}
	var again []*wish
	for _, w := range rest {
		if leader := first[w.scope()]; leader != w && leader.fingerprint == w.fingerprint {
			w.end(leader.Answer, leader.Err)
			continue
		}
		again = append(again, w)
	}
	if len(again) == 0 {
		return nil
	}
	return s.placeWishes(ctx, again)
}

// firsts returns the wishes without those whose key an earlier one has.
func firsts(wishes []*wish) []*wish {
	taken := make(map[scope]bool, len(wishes))
	return slices.DeleteFunc(slices.Clone(wishes), func(w *wish) bool {
		twin := taken[w.scope()]
		taken[w.scope()] = true
		return twin
	})
}

func pending(wishes []*wish) []*wish {
	return slices.DeleteFunc(slices.Clone(wishes), func(w *wish) bool { return w.done })
}
