package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/orders"
)

// Flash is the sale of what there is too little of, to callers of whom many ask twice. Nothing of
// it is measured: it has to be right.
type Flash struct {
	// Nodes share the database; the callers are spread over them.
	Nodes    int `json:"nodes"`
	Callers  int `json:"callers"`
	Stock    int `json:"stock"`
	Attempts int `json:"attempts"`
	// Twins are attempts with the key of an earlier one.
	Twins int `json:"twins"`
	// Sold is how many orders stand, of one unit each; each attempt was one of the others.
	Sold     int `json:"sold"`
	Replayed int `json:"replayed"`
	Refused  int `json:"refused"`
}

func (f Flash) String() string {
	return fmt.Sprintf("%d callers at %d nodes, %d in stock, %d attempts of which %d were repeated: %d sold, %d "+
		"replayed, %d refused, and every answer true.",
		f.Callers, f.Nodes, f.Stock, f.Attempts, f.Twins, f.Sold, f.Replayed, f.Refused)
}

// flashFor is a sale that fits into a run: 25,000 attempts for 5,000 units, fewer in a short one.
func flashFor(run time.Duration) Flash {
	attempts := int(25_000 * min(1, run.Seconds()/30))
	return Flash{Nodes: 2, Callers: maxCallers, Stock: attempts / 5, Attempts: attempts}
}

const (
	// twinsPerHundred of the attempts repeat one of the last attempts, which may still be under
	// way.
	twinsPerHundred = 30
	twinDistance    = 2 * maxCallers
)

// heard is what one attempt was answered.
type heard struct {
	key          string
	status       int
	replayed     bool
	body         []byte
	began, ended time.Time
}

// sellOut runs the sale over HTTP and judges every answer.
func (b *bench) sellOut(ctx context.Context, f Flash) (Flash, error) {
	plan := make([]int, f.Attempts)
	random, fresh := rand.New(rand.NewPCG(1, 2)), 0 //nolint:gosec // who repeats is no secret
	for i := range plan {
		if i > 0 && random.IntN(100) < twinsPerHundred {
			plan[i] = plan[i-1-random.IntN(min(i, twinDistance))]
			f.Twins++
			continue
		}
		plan[i] = fresh
		fresh++
	}
	before, err := (&books{b.ours}).read(ctx)
	if err != nil {
		return f, err
	}
	answers, err := b.attempt(ctx, plan)
	if err != nil {
		return f, fmt.Errorf("flash sale: %w", err)
	}
	after, err := (&books{b.ours}).read(ctx)
	if err != nil {
		return f, err
	}
	stored, err := b.flashOrders(ctx)
	if err != nil {
		return f, err
	}
	if err := f.judge(answers, stored); err != nil {
		return f, fmt.Errorf("flash sale: %w", err)
	}
	return f, verify(before, after, entry{Orders: int64(f.Sold), Units: int64(f.Sold)})
}

// attempt has the callers, half of them at each node, work through the plan, which names a key for
// each attempt.
func (b *bench) attempt(ctx context.Context, plan []int) ([]heard, error) {
	body, err := requestFor([]orders.LineRequest{{SKU: flashSKU, Quantity: 1}})
	if err != nil {
		return nil, err
	}
	answers, failures := make([]heard, len(plan)), make([]error, maxCallers)
	var next atomic.Int64
	var group sync.WaitGroup
	for n := range maxCallers {
		client, err := dial(ctx, [2]*server{b.ourServer, b.otherServer}[n%2].address)
		if err != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		defer client.close()
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(plan) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				key, began := "flash-"+strconv.Itoa(plan[i]), time.Now()
				got, err := client.post("/v1/orders", b.buyers[plan[i]%maxCallers].token, key, body)
				if err != nil {
					failures[n] = err
					return
				}
				answers[i] = heard{key, got.status, got.replayed, bytes.Clone(got.body), began, time.Now()}
			}
		})
	}
	group.Wait()
	return answers, errors.Join(ctx.Err(), errors.Join(failures...))
}

// storedOrder is what the table says of a key.
type storedOrder struct {
	id     string
	answer []byte
}

func (b *bench) flashOrders(ctx context.Context) (map[string]storedOrder, error) {
	rows, err := b.ours.Query(ctx, `SELECT idempotency_key, id::text, answer FROM orders
		WHERE idempotency_key LIKE 'flash-%'`)
	if err != nil {
		return nil, fmt.Errorf("read the orders of the flash sale: %w", err)
	}
	stored := map[string]storedOrder{}
	var key string
	var order storedOrder
	_, err = pgx.ForEachRow(rows, []any{&key, &order.id, &order.answer}, func() error {
		if _, twice := stored[key]; twice {
			return fmt.Errorf("two orders under the key %s", key)
		}
		stored[key] = storedOrder{order.id, bytes.Clone(order.answer)}
		return nil
	})
	return stored, err
}

// judge compares what callers heard with what stands, and counts.
func (f *Flash) judge(answers []heard, stored map[string]storedOrder) error {
	firsts := map[string]bool{}
	var firstRefusal, lastSale time.Time
	for _, a := range answers {
		order, sold := stored[a.key]
		switch {
		case a.status == http.StatusConflict && bytes.Contains(a.body, []byte(`"out_of_stock"`)):
			if sold {
				return fmt.Errorf("the key %s was refused and has an order", a.key)
			}
			if f.Refused++; firstRefusal.IsZero() || a.ended.Before(firstRefusal) {
				firstRefusal = a.ended
			}
		case a.status != http.StatusCreated:
			return fmt.Errorf("the key %s was answered %d: %s", a.key, a.status, a.body)
		case !sold || idOf(a.body) != order.id:
			return fmt.Errorf("the key %s was answered with order %s, which does not stand", a.key, idOf(a.body))
		case !bytes.Equal(a.body, order.answer):
			return fmt.Errorf("the key %s was answered with other bytes than are stored: %s", a.key, a.body)
		case a.replayed:
			f.Replayed++
		case firsts[a.key]:
			return fmt.Errorf("two answers to the key %s say that they are the first", a.key)
		default:
			firsts[a.key] = true
			if a.began.After(lastSale) {
				lastSale = a.began
			}
		}
	}
	f.Sold = len(stored)
	switch {
	case f.Sold != f.Stock:
		return fmt.Errorf("%d units of %d are sold", f.Sold, f.Stock)
	case len(firsts) != f.Sold:
		return fmt.Errorf("%d orders stand and %d were acknowledged", f.Sold, len(firsts))
	case f.Refused > 0 && lastSale.After(firstRefusal):
		return errors.New("an attempt was refused while there was stock: another that began later got some")
	}
	return nil
}
