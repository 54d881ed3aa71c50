package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/onceshop/onceshop/internal/dedup"
)

func memoryExperiments() []Experiment {
	return []Experiment{oneProcess(), restart(), secondNode(), ttlPassed(), evicted()}
}

// What memory there is where an experiment is not about having little of it.
const (
	plenty    = 1 << 20
	longWhile = 10 * time.Minute
)

var (
	naiveMemoryCode = []string{"internal/proof/lab/memory_naive.go:naiveShop.placeUnlessSeen",
		"internal/proof/lab/memory_naive.go:naiveMemory.first"}
	naiveMemoryBound = []string{"internal/proof/lab/memory_naive.go:naiveMemory",
		"internal/proof/lab/naive_orders.sql:orders"}
	naiveMemoryStatement = []string{"internal/proof/lab/unique_naive.go:naiveShop.insertOrder~INSERT"}

	replaysBound = []string{"internal/dedup/memory.go:Replays", ordersKey}
	replaysCode  = []string{"internal/dedup/memory.go:Replays.Do", "internal/orders/place.go:Service.placeTx"}
)

// remembers gives the node a memory of its own, in the room of maxBytes.
func (n *node) remembers(maxBytes uint64, ttl time.Duration) *node {
	n.replays = dedup.NewReplays(maxBytes, ttl)
	n.bench.OnEnd(n.replays.Close)
	return n
}

// remembers gives the shop a memory of its own.
func (s *naiveShop) remembers(size int, ttl time.Duration) *naiveShop {
	s.memory = newNaiveMemory(size, ttl)
	return s
}

// requestOrder sends a request to a shop with a memory.
func (s *naiveShop) requestOrder(ctx context.Context, key string) error {
	s.bench.Says(ctx, Client, s.actor, "POST /orders, key %s", key)
	placed, err := s.placeUnlessSeen(ctx, key, 1)
	switch {
	case err != nil:
		return err
	case placed:
		s.bench.Says(ctx, s.actor, Client, "201")
	default:
		s.bench.Stops(ctx, s.actor, "memory has key %s", key)
		s.bench.Says(ctx, s.actor, Client, "200, seen before")
	}
	return nil
}

func oneProcess() Experiment {
	return Experiment{
		ID: "memory-one-process", Strategy: Memory,
		Predict: Prediction{Effect: "orders", Choices: []int{1, 2, 4},
			Question: "Four requests, one key, one process. How many orders does the naive shop write?"},
		Actors: []Actor{Client, NodeA, Database},
		Naive: Twin{Title: "memory alone", Expect: Holds,
			Constraint: naiveMemoryBound,
			Statement:  naiveMemoryStatement,
			Code:       naiveMemoryCode,
			Run: func(ctx context.Context, b *Bench) error {
				shop := b.naiveShop(NodeA).remembers(plenty, longWhile)
				shop.countOrders(1)
				return racersAndOneLater(ctx, func(ctx context.Context) error { return shop.requestOrder(ctx, "K1") })
			}},
		Guarded: Twin{Title: "memory before the unique row", Expect: Holds,
			Constraint: replaysBound,
			Statement:  []string{insertOrders},
			Code:       replaysCode,
			Run: func(ctx context.Context, b *Bench) error {
				customer, err := b.guest(ctx, 1)
				if err != nil {
					return err
				}
				shop := b.node(NodeA, shopPolicy).remembers(plenty, longWhile)
				return racersAndOneLater(ctx, func(ctx context.Context) error {
					_, err := shop.place(ctx, b.placing(customer, "K1"))
					return err
				})
			}},
	}
}

func racersAndOneLater(ctx context.Context, request func(context.Context) error) error {
	err := inParallel(ctx, racers, func(ctx context.Context, _ int) error { return request(ctx) })
	if err != nil {
		return err
	}
	return request(ctx)
}

func secondNode() Experiment {
	return Experiment{
		ID: "memory-second-node", Strategy: Memory,
		Predict: Prediction{Effect: "orders", Choices: []int{1, 2},
			Question: "One order, one retry on another node. How many orders do the naive nodes write?"},
		Actors: []Actor{Client, NodeA, NodeB, Database},
		Naive: Twin{Title: "memory alone", Expect: Duplicates,
			Constraint: naiveMemoryBound,
			Statement:  naiveMemoryStatement,
			Code:       naiveMemoryCode,
			Run:        naiveSecondNode},
		Guarded: Twin{Title: "memory before the unique row", Expect: Holds,
			Constraint: replaysBound,
			Statement:  []string{insertOrders},
			Code:       replaysCode,
			Run:        guardedSecondNode},
	}
}

func naiveSecondNode(ctx context.Context, b *Bench) error {
	first, second := b.naiveShop(NodeA).remembers(plenty, longWhile), b.naiveShop(NodeB).remembers(plenty, longWhile)
	first.countOrders(1)
	b.Says(ctx, Client, NodeA, "POST /orders, key K1")
	if _, err := first.placeUnlessSeen(ctx, "K1", 1); err != nil {
		return err
	}
	b.Loses(ctx, NodeA, Client, "201")
	return second.requestOrder(ctx, "K1")
}

func guardedSecondNode(ctx context.Context, b *Bench) error {
	customer, err := b.guest(ctx, 1)
	if err != nil {
		return err
	}
	first, second := b.node(NodeA, shopPolicy).remembers(plenty, longWhile),
		b.node(NodeB, shopPolicy).remembers(plenty, longWhile)
	first.cut = true
	for _, node := range []*node{first, second} {
		if _, err := node.place(ctx, b.placing(customer, "K1")); err != nil {
			return err
		}
	}
	return nil
}

// shortWhile is how long a key is remembered where an experiment waits until it is forgotten.
const shortWhile = 50 * time.Millisecond

func ttlPassed() Experiment {
	return Experiment{
		ID: "memory-ttl-passed", Strategy: Memory,
		Predict: Prediction{Effect: "orders", Choices: []int{1, 2},
			Question: "The retry arrives after the TTL. How many orders does the naive shop write?"},
		Shrunk: fmt.Sprintf("A key is remembered for %d ms instead of %.0f minutes.", shortWhile.Milliseconds(),
			longWhile.Minutes()),
		Actors: []Actor{Client, NodeA, Database},
		Naive: Twin{Title: "memory alone", Expect: Duplicates,
			Constraint: naiveMemoryBound,
			Statement:  naiveMemoryStatement,
			Code:       naiveMemoryCode,
			Run: func(ctx context.Context, b *Bench) error {
				shop := b.naiveShop(NodeA).remembers(plenty, shortWhile)
				shop.countOrders(1)
				return b.beforeAndAfter(ctx, func(ctx context.Context) error { return shop.requestOrder(ctx, "K1") })
			}},
		Guarded: Twin{Title: "memory before the unique row", Expect: Holds,
			Constraint: replaysBound,
			Statement:  []string{insertOrders},
			Code:       replaysCode,
			Run: func(ctx context.Context, b *Bench) error {
				customer, err := b.guest(ctx, 1)
				if err != nil {
					return err
				}
				shop := b.node(NodeA, shopPolicy).remembers(plenty, shortWhile)
				return b.beforeAndAfter(ctx, func(ctx context.Context) error {
					_, err := shop.place(ctx, b.placing(customer, "K1"))
					return err
				})
			}},
	}
}

// beforeAndAfter sends a request, and again when its key has been forgotten.
func (b *Bench) beforeAndAfter(ctx context.Context, request func(context.Context) error) error {
	if err := request(ctx); err != nil {
		return err
	}
	b.Does(ctx, Client, "is offline for longer than the TTL")
	select {
	case <-time.After(2 * shortWhile):
	case <-ctx.Done():
		return ctx.Err()
	}
	return request(ctx)
}

// In the experiment about eviction, the naive memory has room for two keys, the guarded one for one
// answer, and three orders come.
var evictedKeys = []string{"K1", "K2", "K3"}

const (
	naiveRoom   = 2
	guardedRoom = 1000 // bytes
)

func evicted() Experiment {
	return Experiment{
		ID: "memory-evicted", Strategy: Memory,
		Predict: Prediction{Effect: "orders", Choices: []int{3, 4, 6},
			Question: "Three orders, each sent twice, and memory for two keys. " +
				"How many orders does the naive shop write?"},
		Shrunk: fmt.Sprintf("The naive memory has room for %d keys, and the guarded one for one answer instead of "+
			"64 MiB of them.", naiveRoom),
		Actors: []Actor{Client, NodeA, Database},
		Naive: Twin{Title: "memory alone", Expect: Duplicates,
			Constraint: naiveMemoryBound,
			Statement:  naiveMemoryStatement,
			Code:       naiveMemoryCode,
			Run: func(ctx context.Context, b *Bench) error {
				shop := b.naiveShop(NodeA).remembers(naiveRoom, longWhile)
				shop.countOrders(len(evictedKeys))
				return allTwice(func(key string) error { return shop.requestOrder(ctx, key) })
			}},
		Guarded: Twin{Title: "memory before the unique row", Expect: Holds,
			Constraint: replaysBound,
			Statement:  []string{insertOrders},
			Code:       replaysCode,
			Run: func(ctx context.Context, b *Bench) error {
				customer, err := b.guest(ctx, len(evictedKeys))
				if err != nil {
					return err
				}
				shop := b.node(NodeA, shopPolicy).remembers(guardedRoom, longWhile)
				return allTwice(func(key string) error {
					_, err := shop.place(ctx, b.placing(customer, dedup.Key(key)))
					return err
				})
			}},
	}
}

// allTwice sends a request for each key, and then each of them again.
func allTwice(request func(key string) error) error {
	for range 2 {
		for _, key := range evictedKeys {
			if err := request(key); err != nil {
				return err
			}
		}
	}
	return nil
}
