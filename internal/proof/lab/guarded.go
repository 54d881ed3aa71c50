package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

// shopPolicy is the shop's default.
var shopPolicy = payments.Policy{ProviderTimeout: providerTimeout, Lease: 15 * time.Second, Horizon: 12 * time.Hour}

// node is one process of the shop on the guarded schema: its services, unchanged, with a pen
// between them and those they talk to.
type node struct {
	bench    *Bench
	actor    Actor
	gateway  *gateway
	replays  *dedup.Replays // nil for a node without memory
	orders   *orders.Service
	payments *payments.Service
	// cut loses this node's answers to the buyer.
	cut bool
}

func (b *Bench) node(actor Actor, policy payments.Policy) *node {
	n := &node{bench: b, actor: actor, gateway: &gateway{Provider: b.PSP, bench: b, actor: actor, only: b.owns},
		orders: b.orders()}
	n.gateway.beforeCall = n.noted
	n.payments = payments.New(b.Guarded, n.orders, n.gateway, policy, time.Now, nil, slog.New(slog.DiscardHandler))
	return n
}

// place sends POST /orders to the node.
func (n *node) place(ctx context.Context, c orders.PlaceOrder) (dedup.Answer, error) {
	n.bench.Says(ctx, Client, n.actor, "POST /orders, key %s: %s", c.Key, mugs(c.Lines[0].Quantity))
	answer, err := n.replays.Do(ctx, dedup.RequestIDOf("orders", c.CustomerID, c.Key, c.Fingerprint()),
		func(ctx context.Context) (dedup.Answer, error) {
			return n.orders.Place(ctx, c)
		})
	if err == nil {
		n.bench.own(answer.ID.String())
	}
	n.answer(ctx, "order", c.Key, answer, err)
	return answer, err
}

// charge sends POST /orders/{id}/charges to the node.
func (n *node) charge(ctx context.Context, c payments.ChargeOrder) (dedup.Answer, error) {
	n.bench.Says(ctx, Client, n.actor, "POST /orders/%s/charges, key %s", short(c.OrderID.String()), c.Key)
	answer, err := n.replays.Do(ctx, dedup.RequestIDOf("charges", c.CustomerID, c.Key, c.Fingerprint()),
		func(ctx context.Context) (dedup.Answer, error) {
			return n.payments.Charge(ctx, c)
		})
	if err != nil {
		n.bench.after(ctx, pendingOf(c.OrderID.String()))
	}
	n.answer(ctx, "charge", c.Key, answer, err)
	return answer, err
}

// answer draws what a request for a thing came to, and what the buyer hears of it.
func (n *node) answer(ctx context.Context, thing string, key dedup.Key, answer dedup.Answer, err error) {
	b := n.bench
	name := thing + " " + short(answer.ID.String())
	told := fmt.Sprintf("%d, %s", answer.Status, name)
	if answer.Replayed {
		told += ", replayed"
	}
	if answer.StoppedBy != "" {
		b.after(ctx, commitOf(answer.ID.String()))
	}
	switch {
	case err != nil:
		told = n.refusal(ctx, thing, key, err)
	case answer.StoppedBy == dedup.ByMemory:
		b.Stops(ctx, n.actor, "memory has the answer of key %s", key)
	case answer.StoppedBy == dedup.ByKey:
		b.Stops(ctx, Database, "key %s has %s: no second row", key, name)
	default:
		b.Says(ctx, n.actor, Database, "COMMIT: %s, key %s and answer", name, key)
		b.own(commitOf(answer.ID.String()))
	}
	if n.cut {
		b.Loses(ctx, n.actor, Client, "%s", told)
		return
	}
	b.Says(ctx, n.actor, Client, "%s", told)
}

// refusal draws why a request was refused and returns the API's answer to the buyer.
func (n *node) refusal(ctx context.Context, thing string, key dedup.Key, err error) string {
	var live payments.InProgressError
	var paid payments.AlreadyPaidError
	switch {
	case errors.Is(err, dedup.ErrKeyReused):
		n.bench.Stops(ctx, Database, "key %s belongs to a different basket", key)
		return "422 idempotency_key_reused"
	case errors.Is(err, dedup.ErrInProgress):
		n.bench.Stops(ctx, Database, "key %s has a %s that is not settled", key, thing)
		return "409 request_in_progress"
	case errors.As(err, &live):
		n.bench.Stops(ctx, Database, "charge %s of this order is live", short(live.ChargeID.String()))
		return "409 charge_in_progress"
	case errors.As(err, &paid):
		n.bench.Stops(ctx, Database, "charge %s has paid this order", short(paid.ChargeID.String()))
		return "409 order_already_paid"
	default:
		return "an error" // the run fails, and says why
	}
}

// checkout does what the shop's pages do: it places an order and pays for it, both under the key of
// the cart.
func (n *node) checkout(ctx context.Context, customer uuid.UUID, key dedup.Key) error {
	placed, err := n.place(ctx, n.bench.placing(customer, key))
	if err != nil {
		return err
	}
	_, err = n.chargeUntilSettled(ctx, n.bench.paying(customer, key, placed.ID))
	return err
}

// noted draws the charge that others can see while the provider is asked for it.
func (n *node) noted(ctx context.Context, r payments.CaptureRequest) {
	id, err := uuid.Parse(r.Reference)
	if err != nil {
		return
	}
	if charge, err := n.payments.Get(ctx, id); err == nil {
		n.bench.Says(ctx, n.actor, Database, "COMMIT: charge %s is %s", short(r.Reference), charge.Status)
		n.bench.own(pendingOf(r.OrderID))
	}
}

// chargeUntilSettled sends the same request until it gets the final answer, as a client does after
// a 409.
func (n *node) chargeUntilSettled(ctx context.Context, c payments.ChargeOrder) (dedup.Answer, error) {
	answer, err := n.charge(ctx, c)
	if !errors.Is(err, dedup.ErrInProgress) {
		return answer, err
	}
	err = Until(ctx, "the charge to be settled", func(ctx context.Context) (bool, error) {
		answer, err := n.payments.Charge(ctx, c)
		if errors.Is(err, dedup.ErrInProgress) {
			return false, nil
		}
		return answer.Final, err
	})
	if err != nil {
		return dedup.Answer{}, err
	}
	return n.charge(ctx, c)
}

func mugs(n int64) string {
	if n == 1 {
		return "1 mug"
	}
	return fmt.Sprintf("%d mugs", n)
}

// short is enough of an id to tell it from its neighbors.
func short(id string) string {
	return "…" + id[max(0, len(id)-4):]
}

// placing is the command of a customer of this run for the usual basket.
func (b *Bench) placing(customer uuid.UUID, key dedup.Key) orders.PlaceOrder {
	return orders.PlaceOrder{CustomerID: customer, Key: key, Email: b.Email(), Lines: Basket()}
}

// paying is the command of that customer to pay for an order.
func (b *Bench) paying(customer uuid.UUID, key dedup.Key, orderID uuid.UUID) payments.ChargeOrder {
	return payments.ChargeOrder{CustomerID: customer, Key: key, OrderID: orderID, PaymentMethod: "pm_ok"}
}

// paidOrder is a new order of this run, placed and paid without a drawing.
func (b *Bench) paidOrder(ctx context.Context) (orders.Order, error) {
	customer, err := b.Buyer(ctx)
	if err != nil {
		return orders.Order{}, err
	}
	shop := b.orders()
	placed, err := shop.Place(ctx, b.placing(customer, "K1"))
	if err != nil {
		return orders.Order{}, fmt.Errorf("place the order: %w", err)
	}
	cashier := payments.New(b.Guarded, shop, b.PSP, shopPolicy, time.Now, nil, slog.New(slog.DiscardHandler))
	charged, err := cashier.Charge(ctx, b.paying(customer, "K1", placed.ID))
	if err == nil && charged.Status != http.StatusCreated {
		err = fmt.Errorf("the charge ended as %d", charged.Status)
	}
	if err != nil {
		return orders.Order{}, fmt.Errorf("pay the order: %w", err)
	}
	return shop.Get(ctx, placed.ID)
}

// guest is a new customer of whom this many orders are expected.
func (b *Bench) guest(ctx context.Context, want int) (uuid.UUID, error) {
	customer, err := b.Buyer(ctx)
	if err == nil {
		b.countOrders(customer, want)
	}
	return customer, err
}

// sale is a new customer of whom one order and one capture are expected.
func (b *Bench) sale(ctx context.Context) (uuid.UUID, error) {
	customer, err := b.guest(ctx, 1)
	if err == nil {
		b.countCaptures(customer, 1)
	}
	return customer, err
}

func (b *Bench) countOrders(customer uuid.UUID, want int) {
	b.Count("orders", "table orders", want, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Guarded, "SELECT count(*) FROM orders WHERE customer_id = $1", customer)
	})
}

func (b *Bench) countCaptures(customer uuid.UUID, want int) {
	b.Count("captures", "the provider's log", want, func(ctx context.Context) (int, error) {
		return b.capturesOf(ctx, b.Guarded, "SELECT id FROM orders WHERE customer_id = $1", customer)
	})
}

// capturesOf sums what the provider took for the orders that a query names.
func (b *Bench) capturesOf(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) (sum int, err error) {
	rows, err := pool.Query(ctx, sql, args...)
	if err != nil {
		return 0, fmt.Errorf("list the orders: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, fmt.Errorf("list the orders: %w", err)
	}
	for _, id := range found {
		captures, err := b.Captures(ctx, id.String())
		if err != nil {
			return 0, err
		}
		sum += captures
	}
	return sum, nil
}
