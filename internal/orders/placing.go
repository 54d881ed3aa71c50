package orders

import (
	"context"
	"encoding/json"
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
	"github.com/onceshop/onceshop/internal/problem"
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

// lookAll ends the wishes whose keys have an order already, and makes the others orders at today's prices, in one round trip. It is a batch of
// its own, so that while one batch is committed the next is looked up, and a replay waits for no commit. Prices and stock are read before the keys:
// who finds that a twin has taken the last unit finds the twin's order too.
func (s *Service) lookAll(ctx context.Context, wishes []*wish) ([]coalesce.Outcome[struct{}], error) {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	var offers []ordersdb.GetOffersRow
	var found []ordersdb.FindOrdersByKeysRow
	batch := &pgx.Batch{}
	batch.Queue(ordersdb.GetOffers, skusOf(wishes)).Query(pg.Into(&offers))
	queueFind(batch, wishes).Query(pg.Into(&found))
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, shared(fmt.Errorf("read the products and the orders under the keys: %w", err))
	}
	for _, w := range wishes {
		w.done = false // it may have been in a batch that failed
	}
	replay(wishes, found)
	s.offer(pending(wishes), offers)
	return make([]coalesce.Outcome[struct{}], len(wishes)), nil
}

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

func queueFind(batch *pgx.Batch, wishes []*wish) *pgx.QueuedQuery {
	customers, keys := make([]uuid.UUID, len(wishes)), make([]string, len(wishes))
	for i, w := range wishes {
		customers[i], keys[i] = w.CustomerID, string(w.Key)
	}
	return batch.Queue(ordersdb.FindOrdersByKeys, customers, keys)
}

// reread ends the wishes whose keys have an order by now.
func (s *Service) reread(ctx context.Context, wishes []*wish) error {
	var found []ordersdb.FindOrdersByKeysRow
	batch := &pgx.Batch{}
	queueFind(batch, wishes).Query(pg.Into(&found))
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("find the orders by their keys: %w", err)
	}
	replay(wishes, found)
	return nil
}

func replay(wishes []*wish, found []ordersdb.FindOrdersByKeysRow) {
	if len(found) == 0 {
		return
	}
	rows := make(map[scope]ordersdb.FindOrdersByKeysRow, len(found))
	for _, row := range found {
		rows[scope{row.CustomerID, row.IdempotencyKey}] = row
	}
	for _, w := range wishes {
		if row, ok := rows[w.scope()]; ok {
			w.end(dedup.Replay(row.Fingerprint, w.fingerprint, placedAnswer(row.ID, row.Answer)))
		}
	}
}

// skusOf returns what the wishes ask for, each once and in order.
func skusOf(wishes []*wish) []string {
	var skus []string
	for _, w := range wishes {
		for _, line := range w.Lines {
			skus = append(skus, line.SKU)
		}
	}
	slices.Sort(skus)
	return slices.Compact(skus)
}

// offer turns wishes into orders at today's prices. A wish that asks for more than there is ends here: its turn has come, and
// the stock is short. For one whose key an earlier one has, that is no question yet.
func (s *Service) offer(wishes []*wish, products []ordersdb.GetOffersRow) {
	offers, available := make(map[string]ordersdb.GetOffersRow, len(products)), make(map[string]int64, len(products))
	for _, row := range products {
		offers[row.Sku], available[row.Sku] = row, row.Available
	}
	for _, w := range wishes {
		if err := s.price(w, offers); err != nil {
			w.end(dedup.Answer{}, err)
		}
	}
	for _, w := range firsts(pending(wishes)) {
		if short := shortages(units(w.Lines), available); len(short) > 0 {
			w.end(dedup.Answer{}, OutOfStockError{Items: short})
		}
	}
}

// price makes the order that the wish is for.
func (s *Service) price(w *wish, offers map[string]ordersdb.GetOffersRow) error {
	var unknown []string
	for sku := range units(w.Lines) {
		if _, ok := offers[sku]; !ok {
			unknown = append(unknown, sku)
		}
	}
	if len(unknown) > 0 {
		return UnknownSKUError{SKUs: slices.Sorted(slices.Values(unknown))}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make an order id: %w", err)
	}
	order := Order{ID: id, CustomerID: w.CustomerID, Status: Placed, Email: w.Email, Currency: offers[w.Lines[0].SKU].Currency, CreatedAt: s.timestamp()}
	for i, line := range w.Lines {
		p := offers[line.SKU]
		if p.Currency != order.Currency {
			return problem.InvalidError{Field: fmt.Sprintf("lines[%d].sku", i),
				Reason: fmt.Sprintf("%s is sold in %s, the products before it in %s; place one order per currency", p.Sku, p.Currency, order.Currency)}
		}
		amount := p.UnitPrice * line.Quantity
		order.Lines = append(order.Lines, Line{SKU: p.Sku, Name: p.Name, Quantity: line.Quantity, UnitPrice: p.UnitPrice, Amount: amount})
		order.Total += amount
	}
	w.order = order
	if w.body, err = json.Marshal(order); err != nil {
		return fmt.Errorf("encode the order: %w", err)
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
