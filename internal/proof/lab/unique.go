package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
)

func uniqueExperiments() []Experiment {
	return []Experiment{doubleClick(), answerLost(), crashAfterCharge(), twoTabs(), otherBasket(), selectThenInsert()}
}

// The constraint and the statement behind every order.
const (
	ordersKey    = "db/migrations/00002_orders.sql:orders_one_per_key"
	insertOrders = "db/queries/orders/place.sql:InsertOrders"
)

// placeCode is where the shop decides that a key has its order.
var placeCode = []string{"internal/orders/place.go:Service.placeTx", "internal/dedup/unique.go:Once"}

func doubleClick() Experiment {
	return Experiment{
		ID: "unique-double-click", Strategy: Unique,
		Predict: Prediction{Effect: "orders", Choices: []int{1, 2, 3},
			Question: "The buyer clicks twice. How many orders does the naive shop write?"},
		Actors: []Actor{Client, NodeA, Database, Provider},
		Naive: Twin{Title: "each request is an order", Expect: Duplicates,
			Constraint: []string{"internal/proof/lab/naive_orders.sql:orders"},
			Statement:  []string{"internal/proof/lab/unique_naive.go:naiveShop.insertOrder~INSERT"},
			Code: []string{"internal/proof/lab/unique_naive.go:naiveShop.checkout",
				"internal/proof/lab/unique_naive.go:naiveShop.insertOrder"},
			Run: func(ctx context.Context, b *Bench) error {
				shop := b.naiveShop(NodeA)
				shop.countOrders(1)
				shop.countCaptures()
				return inParallel(ctx, 2, func(ctx context.Context, _ int) error {
					b.Says(ctx, Client, NodeA, "POST /checkout")
					id, err := shop.checkout(ctx, 1)
					if err == nil {
						b.Says(ctx, NodeA, Client, "201, order %s", short(id.String()))
					}
					return err
				})
			}},
		Guarded: Twin{Title: "one key, one row", Expect: Holds,
			Constraint: []string{ordersKey},
			Statement:  []string{insertOrders},
			Code:       placeCode,
			Run: func(ctx context.Context, b *Bench) error {
				customer, err := b.sale(ctx)
				if err != nil {
					return err
				}
				shop := b.node(NodeA, shopPolicy)
				return inParallel(ctx, 2, func(ctx context.Context, _ int) error {
					return shop.checkout(ctx, customer, "K1")
				})
			}},
	}
}

func answerLost() Experiment {
	return Experiment{
		ID: "unique-answer-lost", Strategy: Unique,
		Predict: Prediction{Effect: "captures", Choices: []int{1, 2},
			Question: "The client sends one order twice. How often does the naive shop take the money?"},
		Actors: []Actor{Client, NodeA, Database, Provider},
		Naive: Twin{Title: "each try is an order", Expect: Duplicates,
			Constraint: []string{"internal/proof/lab/naive_orders.sql:orders"},
			Statement:  []string{"internal/proof/lab/unique_naive.go:naiveShop.insertOrder~INSERT"},
			Code: []string{"internal/proof/lab/unique_naive.go:naiveShop.checkout",
				"internal/proof/lab/unique_naive.go:naiveShop.capture"},
			Run: func(ctx context.Context, b *Bench) error {
				shop := b.naiveShop(NodeA)
				shop.countOrders(1)
				shop.countCaptures()
				for _, lost := range []bool{true, false} {
					b.Says(ctx, Client, NodeA, "POST /checkout")
					id, err := shop.checkout(ctx, 1)
					if err != nil {
						return err
					}
					if lost {
						b.Loses(ctx, NodeA, Client, "201, order %s", short(id.String()))
						continue
					}
					b.Says(ctx, NodeA, Client, "201, order %s", short(id.String()))
				}
				return nil
			}},
		Guarded: Twin{Title: "the key finds the answer", Expect: Holds,
			Constraint: []string{ordersKey},
			Statement: []string{"db/queries/orders/place.sql:FindOrdersByKeys",
				insertOrders},
			Code: []string{"internal/orders/place.go:Service.Place", "internal/dedup/unique.go:Once"},
			Run: func(ctx context.Context, b *Bench) error {
				customer, err := b.sale(ctx)
				if err != nil {
					return err
				}
				shop := b.node(NodeA, shopPolicy)
				var placed dedup.Answer
				for _, lost := range []bool{true, false} {
					shop.cut = lost
					if placed, err = shop.place(ctx, b.placing(customer, "K1")); err != nil {
						return err
					}
				}
				for _, lost := range []bool{true, false} {
					shop.cut = lost
					if _, err := shop.charge(ctx, b.paying(customer, "K1", placed.ID)); err != nil {
						return err
					}
				}
				return nil
			}},
	}
}

// acknowledgedOrders is an effect: an order for each basket that was answered with 201.
const acknowledgedOrders = "acknowledged orders"

func otherBasket() Experiment {
	return Experiment{
		ID: "unique-other-basket", Strategy: Unique,
		Predict: Prediction{Effect: "acknowledged orders", Choices: []int{0, 1, 2},
			Question: "The naive shop answers both baskets with 201. How many of the two orders does it write?"},
		Actors: []Actor{Client, NodeA, Database},
		Naive: Twin{Title: "compares only the key", Expect: Loses,
			Constraint: []string{"internal/proof/lab/naive_orders.sql:idempotency_keys"},
			Statement: []string{
				"internal/proof/lab/unique_naive.go:naiveShop.placeOncePerKey~INSERT INTO idempotency_keys",
				"internal/proof/lab/unique_naive.go:naiveShop.placeOncePerKey~SELECT"},
			Code: []string{"internal/proof/lab/unique_naive.go:naiveShop.placeOncePerKey"},
			Run:  naiveOtherBasket},
		Guarded: Twin{Title: "key and fingerprint", Expect: Holds,
			Constraint: []string{ordersKey},
			Statement: []string{"db/queries/orders/place.sql:FindOrdersByKeys",
				insertOrders},
			Code: []string{"internal/dedup/unique.go:Request.replay", "internal/dedup/key.go:FingerprintOf"},
			Run:  guardedOtherBasket},
	}
}

func naiveOtherBasket(ctx context.Context, b *Bench) error {
	shop := b.naiveShop(NodeA)
	var told []int64 // the baskets that were acknowledged, in mugs
	b.Count(acknowledgedOrders, "table orders", 0, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Naive, "SELECT count(*) FROM orders WHERE run = $1 AND quantity = ANY($2)", b.Name, told)
	})
	for _, quantity := range []int64{1, 2} {
		b.Says(ctx, Client, NodeA, "POST /orders, key K1: %s", mugs(quantity))
		id, err := shop.placeOncePerKey(ctx, "K1", quantity)
		if err != nil {
			return err
		}
		told = append(told, quantity)
		b.Want(acknowledgedOrders, len(told))
		b.Says(ctx, NodeA, Client, "201, order %s", short(id.String()))
	}
	return nil
}

func guardedOtherBasket(ctx context.Context, b *Bench) error {
	customer, err := b.Buyer(ctx)
	if err != nil {
		return err
	}
	var told []int64
	b.Count(acknowledgedOrders, "table orders", 0, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Guarded, "SELECT count(*) FROM orders o JOIN order_lines l ON l.order_id = o.id WHERE "+
			"o.customer_id = $1 AND l.quantity = ANY($2)", customer, told)
	})
	shop := b.node(NodeA, shopPolicy)
	for _, request := range []struct {
		key      dedup.Key
		quantity int64
	}{{"K1", 1}, {"K1", 2}, {"K2", 2}} {
		c := b.placing(customer, request.key)
		c.Lines = []orders.LineRequest{{SKU: sku, Quantity: request.quantity}}
		_, err := shop.place(ctx, c)
		if errors.Is(err, dedup.ErrKeyReused) {
			continue
		}
		if err != nil {
			return err
		}
		told = append(told, request.quantity)
		b.Want(acknowledgedOrders, len(told))
	}
	return nil
}

// racers is how many requests meet at one key.
const racers = 3

func selectThenInsert() Experiment {
	return Experiment{
		ID: "unique-select-then-insert", Strategy: Unique,
		Predict: Prediction{Effect: "orders", Choices: []int{1, 2, 3},
			Question: "Three requests, one key. How many orders does the naive shop write?"},
		Actors: []Actor{Client, NodeA, Database},
		Naive: Twin{Title: "SELECT decides", Expect: Duplicates,
			Constraint: []string{"internal/proof/lab/naive_orders.sql:orders"},
			Statement: []string{"internal/proof/lab/unique_naive.go:naiveShop.placeUnlessThere~SELECT",
				"internal/proof/lab/unique_naive.go:naiveShop.insertOrder~INSERT"},
			Code: []string{"internal/proof/lab/unique_naive.go:naiveShop.placeUnlessThere",
				"internal/proof/lab/unique_naive.go:naiveShop.insertOrder"},
			Run: naiveRace},
		Guarded: Twin{Title: "the index decides", Expect: Holds,
			Constraint: []string{ordersKey},
			Statement:  []string{insertOrders},
			Code:       placeCode,
			Run:        guardedRace},
	}
}

func naiveRace(ctx context.Context, b *Bench) error {
	shop := b.naiveShop(NodeA)
	shop.countOrders(1)
	shop.afterSelect = meeting(racers)
	return inParallel(ctx, racers, func(ctx context.Context, _ int) error {
		b.Says(ctx, Client, NodeA, "POST /orders, key K1")
		id, err := shop.placeUnlessThere(ctx, "K1", 1)
		if err == nil {
			b.Says(ctx, NodeA, Client, "201, order %s", short(id.String()))
		}
		return err
	})
}

func guardedRace(ctx context.Context, b *Bench) error {
	customer, err := b.guest(ctx, 1)
	if err != nil {
		return err
	}
	return b.meetAtKey(ctx, customer, racers, func(ctx context.Context) error {
		return inParallel(ctx, racers, func(ctx context.Context, _ int) error {
			// Each on a process of its own: one alone would place them together, and none would
			// meet another.
			_, err := b.node(NodeA, shopPolicy).place(ctx, b.placing(customer, "K1"))
			return err
		})
	})
}

// inParallel lets n requests run at the same time. The first error cancels the others.
func inParallel(ctx context.Context, n int, request func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range n {
		group.Go(func() error { return safely(func() error { return request(ctx, i) }) })
	}
	return group.Wait()
}

// meeting returns a wait that ends for all when n have come.
func meeting(n int) func(context.Context) error {
	var come atomic.Int64
	all := make(chan struct{})
	return func(ctx context.Context) error {
		if come.Add(1) == int64(n) {
			close(all)
		}
		select {
		case <-all:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// meetAtKey runs requests of a customer that all look before any of them can write: the customer's
// row, which an order refers to, is locked until n of them wait for it or for each other.
func (b *Bench) meetAtKey(ctx context.Context, customer uuid.UUID, n int, requests func(context.Context) error) error {
	// Several such races at once could take all connections and wait for more.
	if err := b.races.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for another race: %w", err)
	}
	defer b.races.Release(1)
	tx, err := b.Guarded.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it only held a lock
	if _, err := tx.Exec(ctx, "SELECT FROM customers WHERE id = $1 FOR UPDATE", customer); err != nil {
		return fmt.Errorf("lock the customer: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- requests(ctx) }()
	const waiting = `WITH RECURSIVE waiting AS (
		SELECT pid, virtualtransaction FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))
		UNION SELECT l.pid, l.virtualtransaction
		FROM pg_locks l JOIN waiting w ON NOT l.granted AND w.pid = ANY(pg_blocking_pids(l.pid)))
		SELECT DISTINCT virtualtransaction FROM waiting`
	// A transaction waits for a moment only, and its request tries again two seconds later. So the
	// requests need not wait at the same time.
	seen := map[string]time.Time{}
	err = Until(ctx, "the requests to meet", func(ctx context.Context) (bool, error) {
		if len(done) > 0 {
			return false, errors.New("the requests ended before they met")
		}
		rows, err := tx.Query(ctx, waiting)
		if err != nil {
			return false, err
		}
		transactions, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, transaction := range transactions {
			if _, again := seen[transaction]; !again {
				seen[transaction] = time.Now()
			}
		}
		maps.DeleteFunc(seen, func(_ string, at time.Time) bool { return time.Since(at) > 2*time.Second })
		return len(seen) >= n, err
	})
	if err == nil {
		b.Does(ctx, Database, "%d requests found no order under the key and go on to insert one", n)
	}
	return errors.Join(err, tx.Rollback(context.WithoutCancel(ctx)), <-done)
}
