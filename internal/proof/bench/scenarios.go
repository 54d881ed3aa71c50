package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
)

const email = "buyer@example.com"

// basket makes what one caller orders each time.
type basket func() []orders.LineRequest

// uniform asks for two products out of all.
func uniform() basket {
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // what is bought is no secret
	return func() []orders.LineRequest {
		first := random.IntN(products)
		second := (first + 1 + random.IntN(products-1)) % products
		return []orders.LineRequest{{SKU: "BENCH-" + strconv.Itoa(first), Quantity: 1},
			{SKU: "BENCH-" + strconv.Itoa(second), Quantity: 1}}
	}
}

// hot asks for what everybody asks for.
func hot() basket {
	return func() []orders.LineRequest { return []orders.LineRequest{{SKU: hotSKU, Quantity: 1}} }
}

func (b *bench) scenarios() []scenario {
	ours, naive := &books{b.ours}, &books{b.naive}
	pair := func(name string, naiveOpen, oursOpen opener, each entry) scenario {
		return scenario{name, callerCounts, side{open: naiveOpen, books: naive, each: each},
			side{open: oursOpen, books: ours, each: each}}
	}
	two, one := entry{Orders: 1, Units: 2}, entry{Orders: 1, Units: 1}
	constant := pair("replay, HTTP, of a constant", b.constant, b.replayHTTP, entry{})
	constant.naive.books = nil
	crowded := func(s scenario) scenario {
		s.callers = crowds
		return s
	}
	return []scenario{
		crowded(pair("place uniform, service", b.placeNaive(uniform), b.place(uniform), two)),
		pair("place hot, service", b.placeNaive(hot), b.place(hot), one),
		crowded(pair("place uniform, HTTP", b.placeHTTP(&b.naiveServer, uniform), b.placeHTTP(&b.ourServer, uniform),
			two)),
		pair("place hot, HTTP", b.placeHTTP(&b.naiveServer, hot), b.placeHTTP(&b.ourServer, hot), one),
		pair("replay, service", b.readNaive, b.replay, entry{}),
		constant,
		pair("checkout, HTTP", b.checkout(&b.naiveServer), b.checkout(&b.ourServer),
			entry{Orders: 1, Units: 2, Paid: 1}),
		b.guarding(),
	}
}

type opener = func(ctx context.Context, n int) (caller, func(), error)

func nothing() {}

func (b *bench) placeNaive(baskets func() basket) opener {
	return func(_ context.Context, n int) (caller, func(), error) {
		next, buyer := baskets(), b.buyers[n%maxCallers]
		return func(ctx context.Context) error {
			_, err := b.naiveShop.place(ctx, buyer.naive, email, next())
			return err
		}, nothing, nil
	}
}

func (b *bench) place(baskets func() basket) opener {
	return func(_ context.Context, n int) (caller, func(), error) {
		next, buyer := baskets(), b.buyers[n%maxCallers]
		return func(ctx context.Context) error {
			got, err := b.orders.Place(ctx,
				orders.PlaceOrder{CustomerID: buyer.id, Key: dedup.Key(b.newKey()), Email: email, Lines: next()})
			if err == nil && (got.Status != http.StatusCreated || got.Replayed) {
				err = fmt.Errorf("status %d, replayed: %t", got.Status, got.Replayed)
			}
			return err
		}, nothing, nil
	}
}

// requestFor is the body of a request for an order.
func requestFor(lines []orders.LineRequest) ([]byte, error) {
	return json.Marshal(orders.PlaceOrder{Email: email, Lines: lines})
}

// drawer holds bodies that were made before the clock runs.
func drawer(baskets func() basket) (func() []byte, error) {
	const several = 64
	bodies, next := make([][]byte, several), baskets()
	for i := range bodies {
		var err error
		if bodies[i], err = requestFor(next()); err != nil {
			return nil, err
		}
	}
	i := 0
	return func() []byte {
		i++
		return bodies[i%several]
	}, nil
}

// created is an error unless the answer is a first 201.
func created(a answer) error {
	if a.status != http.StatusCreated || a.replayed {
		return fmt.Errorf("status %d, replayed: %t: %s", a.status, a.replayed, a.body)
	}
	return nil
}

func (b *bench) placeHTTP(to **server, baskets func() basket) opener {
	return func(ctx context.Context, n int) (caller, func(), error) {
		client, err := dial(ctx, (*to).address)
		if err != nil {
			return nil, nil, err
		}
		body, err := drawer(baskets)
		if err != nil {
			return nil, nil, err
		}
		buyer := b.buyers[n%maxCallers]
		return func(context.Context) error {
			got, err := client.post("/v1/orders", buyer.token, b.newKey(), body())
			if err != nil {
				return err
			}
			return created(got)
		}, client.close, nil
	}
}

// checkout places an order and pays for it.
func (b *bench) checkout(to **server) opener {
	payment := []byte(`{"payment_method":"pm_ok"}`)
	return func(ctx context.Context, n int) (caller, func(), error) {
		client, err := dial(ctx, (*to).address)
		if err != nil {
			return nil, nil, err
		}
		body, err := drawer(uniform)
		if err != nil {
			return nil, nil, err
		}
		return func(context.Context) error {
			got, err := client.post("/v1/orders", b.buyers[n].token, b.newKey(), body())
			if err == nil {
				err = created(got)
			}
			if err != nil {
				return err
			}
			got, err = client.post("/v1/orders/"+idOf(got.body)+"/charges", b.buyers[n].token, b.newKey(), payment)
			if err == nil {
				err = created(got)
			}
			return err
		}, client.close, nil
	}
}

// Each caller that replays has so many orders and asks for them in turn.
const replayed = 16

// readNaive reads orders again that were placed before.
func (b *bench) readNaive(ctx context.Context, _ int) (caller, func(), error) {
	rows, err := b.naive.Query(ctx, "SELECT id FROM orders ORDER BY id DESC LIMIT $1", replayed)
	if err != nil {
		return nil, nil, fmt.Errorf("find naive orders: %w", err)
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, nil, fmt.Errorf("find naive orders: %w", err)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, nil, fmt.Errorf("no naive order to read: %w", rows.Err())
	}
	i := 0
	return func(ctx context.Context) error {
		i++
		_, err := b.naiveShop.get(ctx, ids[i%len(ids)])
		return err
	}, nothing, rows.Err()
}

// placed is an order that was placed before the clock runs, and its answer.
type placed struct {
	command orders.PlaceOrder
	body    []byte
	answer  []byte
}

// placeForReplay gives each buyer orders to ask for again.
func (b *bench) placeForReplay(ctx context.Context) error {
	b.placed = make([][]placed, maxCallers)
	var group errgroup.Group
	for n, buyer := range b.buyers {
		group.Go(func() error {
			next := uniform()
			for range replayed {
				p := placed{command: orders.PlaceOrder{CustomerID: buyer.id, Key: dedup.Key(b.newKey()), Email: email,
					Lines: next()}}
				answer, err := b.orders.Place(ctx, p.command)
				if err != nil {
					return fmt.Errorf("place an order to replay: %w", err)
				}
				p.answer = answer.Body
				if p.body, err = requestFor(p.command.Lines); err != nil {
					return err
				}
				b.placed[n] = append(b.placed[n], p)
			}
			return nil
		})
	}
	return group.Wait()
}

// placeNaively gives each buyer as many orders in the naive shop.
func (b *bench) placeNaively(ctx context.Context) error {
	var group errgroup.Group
	for _, buyer := range b.buyers {
		group.Go(func() error {
			next := uniform()
			for range replayed {
				if _, err := b.naiveShop.place(ctx, buyer.naive, email, next()); err != nil {
					return fmt.Errorf("place an order in the naive shop: %w", err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// replay asks for orders again, under their keys.
func (b *bench) replay(_ context.Context, n int) (caller, func(), error) {
	i := 0
	return func(ctx context.Context) error {
		i = (i + 1) % len(b.placed[n])
		p := b.placed[n][i]
		got, err := b.orders.Place(ctx, p.command)
		if err == nil && (!got.Replayed || !bytes.Equal(got.Body, p.answer)) {
			err = fmt.Errorf("replayed: %t; got %s, first %s", got.Replayed, got.Body, p.answer)
		}
		return err
	}, nothing, nil
}

func (b *bench) replayHTTP(ctx context.Context, n int) (caller, func(), error) {
	client, err := dial(ctx, b.ourServer.address)
	if err != nil {
		return nil, nil, err
	}
	i := 0
	return func(context.Context) error {
		i = (i + 1) % replayed
		p := b.placed[n][i]
		got, err := client.post("/v1/orders", b.buyers[n].token, string(p.command.Key), p.body)
		if err == nil && (got.status != http.StatusCreated || !got.replayed || !bytes.Equal(got.body, p.answer)) {
			err = fmt.Errorf("status %d, replayed: %t; got %s, first %s", got.status, got.replayed, got.body, p.answer)
		}
		return err
	}, client.close, nil
}

func (b *bench) constant(ctx context.Context, n int) (caller, func(), error) {
	client, err := dial(ctx, b.naiveServer.address)
	if err != nil {
		return nil, nil, err
	}
	body, err := requestFor(uniform()())
	if err != nil {
		return nil, nil, err
	}
	return func(context.Context) error {
		got, err := client.post(constantPath, b.buyers[n].token, "bench", body)
		if err != nil {
			return err
		}
		return created(got)
	}, client.close, nil
}
