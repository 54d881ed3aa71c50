package orders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
)

// An order takes three round trips to the database:
//
//  1. look     read the products, and the order under the key, if there is one
//  2. insert   BEGIN, insert the order under its key, lock its stock
//  3. reserve  insert lines, stock movements and the event, take the stock, COMMIT
//
// Orders that arrive at the same time share their trips: every statement takes a set. A batch does
// for each order what it would do for that order alone, in the order of arrival.

// PlaceOrder is a request for an order. Its JSON is what the idempotency key stands for.
type PlaceOrder struct {
	CustomerID uuid.UUID `json:"-"`
	Key        dedup.Key `json:"-"`

	Email string        `json:"email"`
	Lines []LineRequest `json:"lines"`

	// ExpectedTotal and Currency are what the buyer was shown. The order is refused if they are set
	// and today's differ.
	ExpectedTotal *int64 `json:"expected_total,omitempty"`
	Currency      string `json:"currency,omitempty"`

	Unpaid UnpaidLimit `json:"-"`
}

// LineRequest asks for units of a product.
type LineRequest struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Fingerprint identifies what the request asks for.
func (c PlaceOrder) Fingerprint() dedup.Fingerprint { return dedup.FingerprintOf(c) }

// Place creates the order and reserves its stock, once per customer and key. It returns 201 with
// the order. Every call with the same key and fingerprint gets the same bytes.
// problem.InvalidError, UnknownSKUError, PriceChangedError, ErrTooManyUnpaid and OutOfStockError
// leave the key unused; dedup.ErrKeyReused reports a key that belongs to a different request. If
// pg.IsUnavailable holds for an error, the order may exist: retry.
func (s *Service) Place(ctx context.Context, c PlaceOrder) (dedup.Answer, error) {
	if err := c.Validate(); err != nil {
		return dedup.Answer{}, err
	}
	r := request{c, c.Fingerprint()}
	var fresh draft
	return dedup.Once(ctx, dedup.Request{
		Fingerprint: r.fingerprint,
		Find: func(ctx context.Context) (dedup.Row, error) {
			seen, err := s.looking.Do(ctx, r)
			fresh = seen.draft
			return seen.row, err
		},
		Do: func(ctx context.Context) (dedup.Answer, error) { return s.placing.Do(ctx, fresh) },
	})
}

type request struct {
	PlaceOrder
	fingerprint dedup.Fingerprint
}

// draft is an order at today's prices that is not stored yet.
type draft struct {
	order       Order
	key         dedup.Key
	fingerprint dedup.Fingerprint
	body        []byte           // the answer: the order as JSON
	units       map[string]int64 // per SKU
	unpaid      UnpaidLimit
}

// seen is what trip 1 finds for a request: the row under its key, or else a draft.
type seen struct {
	row   dedup.Row
	draft draft
}

// scope is what a key is unique in.
type scope struct {
	customer uuid.UUID
	key      dedup.Key
}

// look is trip 1. It reads the products before the keys: a request that finds the last unit gone
// because its own twin has taken it then finds the twin's order too.
func (s *Service) look(ctx context.Context, requests []request) ([]coalesce.Outcome[seen], error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	skus := map[string]int64{}
	var keys ordersdb.FindOrdersByKeysParams
	for _, c := range requests {
		maps.Copy(skus, units(c.Lines))
		keys.CustomerIds = append(keys.CustomerIds, c.CustomerID)
		keys.IdempotencyKeys = append(keys.IdempotencyKeys, string(c.Key))
	}
	var offers *[]ordersdb.GetOffersRow
	var found *[]ordersdb.FindOrdersByKeysRow
	err := pg.ReadBatch(ctx, s.pool, func(batch *pg.Pipe) {
		db := ordersdb.New(batch)
		offers = pg.Later(batch, db.GetOffers, slices.Sorted(maps.Keys(skus)))
		found = pg.Later(batch, db.FindOrdersByKeys, keys)
	})
	if err != nil {
		return nil, fmt.Errorf("read the products and the orders under the keys: %w", err)
	}
	rows := make(map[scope]dedup.Row, len(*found))
	for _, row := range *found {
		rows[scope{row.CustomerID, dedup.Key(row.IdempotencyKey)}] =
			dedup.Row{ID: row.ID, Fingerprint: row.Fingerprint, Answer: placedAnswer(row.ID, row.Answer)}
	}
	return s.draftAll(requests, rows, *offers), nil
}

// draftAll answers each request of trip 1 with the row under its key, a refusal, or a draft. A
// request with the key of an earlier one in the batch is not refused for lack of stock: if the
// earlier one is placed, the key decides. See docs/decisions.md, D17.
func (s *Service) draftAll(requests []request, rows map[scope]dedup.Row,
	offers []ordersdb.GetOffersRow) []coalesce.Outcome[seen] {
	products := make(map[string]ordersdb.GetOffersRow, len(offers))
	available := make(map[string]int64, len(offers))
	for _, offer := range offers {
		products[offer.Sku], available[offer.Sku] = offer, offer.Available
	}
	outcomes := make([]coalesce.Outcome[seen], len(requests))
	taken := make(map[scope]bool, len(requests))
	for i, c := range requests {
		in := scope{c.CustomerID, c.Key}
		if row, ok := rows[in]; ok {
			outcomes[i].Answer.row = row
			continue
		}
		draft, err := s.draft(c, products)
		if short := shortages(draft.units, available); err == nil && len(short) > 0 && !taken[in] {
			err = OutOfStockError{Items: short}
		}
		if err == nil {
			taken[in] = true
			err = dedup.ErrNoRow
		}
		outcomes[i] = coalesce.Outcome[seen]{Answer: seen{draft: draft}, Err: err}
	}
	return outcomes
}

// draft makes the order that a request asks for.
func (s *Service) draft(c request, products map[string]ordersdb.GetOffersRow) (draft, error) {
	d := draft{key: c.Key, fingerprint: c.fingerprint, units: units(c.Lines), unpaid: c.Unpaid}
	var unknown []string
	for sku := range d.units {
		if _, ok := products[sku]; !ok {
			unknown = append(unknown, sku)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return draft{}, UnknownSKUError{SKUs: unknown}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return draft{}, fmt.Errorf("make an order id: %w", err)
	}
	d.order = Order{ID: id, CustomerID: c.CustomerID, Status: Placed, Email: c.Email,
		Currency: products[c.Lines[0].SKU].Currency, CreatedAt: s.timestamp()}
	for i, line := range c.Lines {
		p := products[line.SKU]
		if p.Currency != d.order.Currency {
			return draft{}, problem.InvalidError{Field: fmt.Sprintf("lines[%d].sku", i), Reason: fmt.Sprintf(
				"%s is sold in %s, the products before it in %s; place one order per currency",
				p.Sku, p.Currency, d.order.Currency)}
		}
		amount := p.UnitPrice * line.Quantity
		d.order.Total += amount
		d.order.Lines = append(d.order.Lines,
			Line{SKU: p.Sku, Name: p.Name, Quantity: line.Quantity, UnitPrice: p.UnitPrice, Amount: amount})
	}
	if err := c.accepts(d.order.Total, d.order.Currency); err != nil {
		return draft{}, err
	}
	if d.body, err = json.Marshal(d.order); err != nil {
		return draft{}, fmt.Errorf("encode the order: %w", err)
	}
	return d, nil
}

// placed is what placing one order came to.
type placed = coalesce.Outcome[dedup.Answer]

// place is trips 2 and 3: one transaction. An error means that it is unknown what became of any
// order.
func (s *Service) place(ctx context.Context, drafts []draft) (outcomes []placed, err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	err = pg.InPipe(ctx, s.pool, func(tx *pg.Pipe) (err error) {
		outcomes, err = s.placeTx(ctx, tx, drafts)
		crash.At(crash.PlaceBeforeCommit)
		return err
	})
	if errors.Is(err, pg.ErrCommitUnknown) {
		for i := range outcomes {
			if outcomes[i].Err == nil {
				outcomes[i].Err = err
			}
		}
		return outcomes, nil
	}
	crash.At(crash.PlaceCommitted)
	return outcomes, err
}

// placeTx inserts the orders before it locks their stock. Twins, of this batch or of another node,
// meet at the UNIQUE key, and the stock rows that others wait for are locked for one more trip
// only. See docs/decisions.md, D10.
func (s *Service) placeTx(ctx context.Context, tx *pg.Pipe, drafts []draft) ([]placed, error) {
	tx.LimitLockWait(coalesce.LockWait)
	db := ordersdb.New(tx)
	skus := map[string]int64{}
	for _, d := range drafts {
		maps.Copy(skus, d.units)
	}
	open, err := countUnpaidTx(ctx, tx, drafts)
	if err != nil {
		return nil, err
	}
	inserted := pg.Later(tx, db.InsertOrders, s.insertParams(drafts)) // ON CONFLICT DO NOTHING
	stock := pg.Later(tx, db.LockStock, slices.Sorted(maps.Keys(skus)))
	if err := tx.Flush(ctx); err != nil { // trip 2
		return nil, fmt.Errorf("insert the orders and lock the stock: %w", err)
	}
	available := make(map[string]int64, len(*stock))
	for _, row := range *stock {
		available[row.Sku] = row.Available
	}
	counts := unpaid{}
	for _, row := range *open {
		counts[row.Name] = row.Unpaid
	}
	outcomes, refused := allocate(drafts, *inserted, available, counts)
	if len(refused) > 0 {
		if err := db.DeleteRefused(ctx, refused); err != nil {
			return nil, fmt.Errorf("delete the refused orders: %w", err)
		}
	}
	return outcomes, s.reserveTx(ctx, tx, drafts, outcomes) // trip 3, with the COMMIT
}

// allocate gives the stock to the inserted orders in the order of arrival, each all its units or
// none. It refuses those that are too many or find too little. An order that was not inserted lost
// its key to another request.
func allocate(drafts []draft, inserted []uuid.UUID, available map[string]int64,
	open unpaid) (outcomes []placed, refused []uuid.UUID) {
	mine := make(map[uuid.UUID]bool, len(inserted))
	for _, id := range inserted {
		mine[id] = true
	}
	outcomes = make([]placed, len(drafts))
	for i, d := range drafts {
		if !mine[d.order.ID] {
			outcomes[i].Err = dedup.ErrKeyTaken
			continue
		}
		if open.over(d) {
			outcomes[i].Err = ErrTooManyUnpaid
		} else if items := shortages(d.units, available); len(items) > 0 {
			outcomes[i].Err = OutOfStockError{Items: items}
		}
		if outcomes[i].Err != nil {
			refused = append(refused, d.order.ID)
			continue
		}
		open.add(d)
		for sku, quantity := range d.units {
			available[sku] -= quantity
		}
		outcomes[i].Answer = placedAnswer(d.order.ID, d.body)
	}
	return outcomes, refused
}

// reserveTx queues what belongs to the orders that got their stock: lines, movements, the stock
// itself, and an event each.
func (s *Service) reserveTx(ctx context.Context, tx *pg.Pipe, drafts []draft, outcomes []placed) error {
	var lines ordersdb.ReserveParams
	var events []outbox.NewEvent
	for i, d := range drafts {
		if outcomes[i].Err != nil {
			continue
		}
		for n, line := range d.order.Lines {
			lines.OrderIds = append(lines.OrderIds, d.order.ID)
			lines.Lines = append(lines.Lines, int32(n+1))
			lines.Skus = append(lines.Skus, line.SKU)
			lines.Names = append(lines.Names, line.Name)
			lines.Quantities = append(lines.Quantities, line.Quantity)
			lines.UnitPrices = append(lines.UnitPrices, line.UnitPrice)
		}
		event, err := newEvent(EventPlaced, d.order, d.origin())
		if err != nil {
			return err
		}
		events = append(events, event)
	}
	if len(events) == 0 {
		return nil
	}
	if err := ordersdb.New(tx).Reserve(ctx, lines); err != nil {
		return fmt.Errorf("reserve the stock: %w", err)
	}
	return outbox.EnqueueTx(ctx, tx, events...)
}

func (s *Service) insertParams(drafts []draft) ordersdb.InsertOrdersParams {
	p := ordersdb.InsertOrdersParams{Expiry: s.expiry}
	for _, d := range drafts {
		p.Ids = append(p.Ids, d.order.ID)
		p.CustomerIds = append(p.CustomerIds, d.order.CustomerID)
		p.IdempotencyKeys = append(p.IdempotencyKeys, string(d.key))
		p.Fingerprints = append(p.Fingerprints, d.fingerprint[:])
		p.Answers = append(p.Answers, d.body)
		p.Emails = append(p.Emails, d.order.Email)
		p.Currencies = append(p.Currencies, d.order.Currency)
		p.Totals = append(p.Totals, d.order.Total)
		p.CreatedAts = append(p.CreatedAts, d.order.CreatedAt)
		p.PlacedFroms = append(p.PlacedFroms, d.unpaid.From)
	}
	return p
}

// units returns how many units of each SKU the lines ask for.
func units(lines []LineRequest) map[string]int64 {
	sum := make(map[string]int64, len(lines))
	for _, line := range lines {
		sum[line.SKU] += line.Quantity
	}
	return sum
}

// shortages lists the SKUs of which fewer units are available than wanted, in SKU order.
func shortages(wanted, available map[string]int64) []Shortage {
	var short []Shortage
	for sku, quantity := range wanted {
		if available[sku] < quantity {
			short = append(short, Shortage{SKU: sku, Requested: quantity, Available: available[sku]})
		}
	}
	slices.SortFunc(short, func(a, b Shortage) int { return strings.Compare(a.SKU, b.SKU) })
	return short
}

func placedAnswer(id uuid.UUID, body []byte) dedup.Answer {
	return dedup.Answer{ID: id, Status: http.StatusCreated, Body: body, Final: true}
}

const (
	// maxBatch is how many orders share a trip.
	maxBatch = 256
	// maxWaiting bounds the queue of each batcher. More buyers could not be served before they give
	// up.
	maxWaiting = 4096
	// batchTimeout bounds a batch, which no caller's context does.
	batchTimeout = 8 * time.Second
)

// lookBatch keeps requests apart that give one key different meanings: each may fail and be tried
// again, and the batch would last as long as all of them.
func (s *Service) lookBatch() coalesce.Batch[request, seen] {
	return coalesce.Batch[request, seen]{Most: maxBatch, Waiting: maxWaiting, Run: s.look, Name: "orders.look",
		Rivals: func(r request) (over, as any) { return scope{r.CustomerID, r.Key}, r.fingerprint }}
}

func (s *Service) placeBatch() coalesce.Batch[draft, dedup.Answer] {
	return coalesce.Batch[draft, dedup.Answer]{Most: maxBatch, Waiting: maxWaiting, Run: s.place, Name: "orders.place",
		About:  func(d draft) uuid.UUID { return d.order.ID },
		Rivals: func(d draft) (over, as any) { return scope{d.order.CustomerID, d.key}, d.fingerprint },
		Rows: &coalesce.Rows[draft]{
			Of: func(d draft) []string {
				return slices.AppendSeq([]string{d.order.CustomerID.String()}, maps.Keys(d.units))
			},
			Held: s.db.ListHeldByOthers,
		}}
}
