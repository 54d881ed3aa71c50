package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

// deadLease is the lease of the node that dies: the reconciler takes over after it.
const deadLease = 300 * time.Millisecond

func crashAfterCharge() Experiment {
	return Experiment{
		ID: "unique-crash-after-charge", Strategy: Unique,
		Predict: Prediction{Effect: "captures", Choices: []int{1, 2, 3},
			Question: "One order, one crash, one retry, one restart. How often does the naive shop take the money?"},
		Shrunk: fmt.Sprintf("The lease of the node that dies is %d ms instead of %.0f s.", deadLease.Milliseconds(),
			shopPolicy.Lease.Seconds()),
		Actors: []Actor{Client, NodeA, NodeB, Database, Provider},
		Naive: Twin{Title: "a payment for each try", Expect: Duplicates,
			Constraint: []string{"internal/proof/lab/naive_orders.sql:payments"},
			Statement: []string{"internal/proof/lab/unique_naive.go:naiveShop.pay~INSERT",
				"internal/proof/lab/unique_naive.go:naiveShop.savePayment~UPDATE"},
			Run: naiveCrash,
			Code: []string{"internal/proof/lab/unique_naive.go:naiveShop.pay",
				"internal/proof/lab/unique_naive.go:naiveShop.savePayment",
				"internal/proof/lab/unique_naive.go:naiveShop.resumePayments"}},
		Guarded: Twin{Title: "a stored attempt, settled once", Expect: Holds,
			Constraint: []string{"db/migrations/00003_payments.sql:charges_one_per_key",
				"db/migrations/00003_payments.sql:charges_one_per_capture"},
			Statement: []string{"db/queries/payments/charges.sql:InsertCharges",
				"db/queries/payments/charges.sql:ClaimUnsettledCharges"},
			Run: guardedCrash,
			Code: []string{"internal/payments/charge.go:Service.Charge", "internal/payments/charge.go:Service.capture",
				"internal/payments/reconcile.go:Service.reconcileCharge"}},
	}
}

func naiveCrash(ctx context.Context, b *Bench) error {
	shop, other := b.naiveShop(NodeA), b.naiveShop(NodeB)
	shop.countCaptures()
	b.Count("payment records", "table payments", 1, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Naive, "SELECT count(*) FROM payments WHERE run = $1 AND status = 'succeeded'", b.Name)
	})
	b.Count("paid events", "table events", 1, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Naive, "SELECT count(*) FROM events WHERE run = $1 AND type = 'paid'", b.Name)
	})
	b.Says(ctx, Client, NodeA, "POST /orders")
	orderID, err := shop.insertOrder(ctx, "", 1)
	if err != nil {
		return err
	}
	shop.gateway.beforeSave = func(ctx context.Context) { b.Crash(ctx, NodeA, "dies before it saves the answer") }
	b.Says(ctx, Client, NodeA, "POST /pay")
	if err := b.dies(ctx, NodeA, func() error { return shop.pay(ctx, orderID, 1) }); err != nil {
		return err
	}
	b.Says(ctx, Client, NodeB, "POST /pay, again")
	if err := other.pay(ctx, orderID, 1); err != nil {
		return err
	}
	b.Says(ctx, NodeB, Client, "200, paid")
	b.Does(ctx, NodeA, "starts again and looks for unfinished payments")
	return b.naiveShop(NodeA).resumePayments(ctx)
}

func guardedCrash(ctx context.Context, b *Bench) error {
	customer, err := b.Buyer(ctx)
	if err != nil {
		return err
	}
	b.countCaptures(customer, 1)
	b.Count("payment records", "table charges", 1, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Guarded, "SELECT count(*) FROM charges WHERE customer_id = $1 AND status = 'succeeded'",
			customer)
	})
	b.Count("paid events", "table outbox", 1, func(ctx context.Context) (int, error) {
		return Rows(ctx, b.Guarded, "SELECT count(*) FROM outbox e JOIN orders o ON o.id = e.order_id WHERE "+
			"o.customer_id = $1 AND e.type = $2", customer, orders.EventPaid)
	})
	dying := shopPolicy
	dying.Lease = deadLease
	shop, other := b.node(NodeA, dying), b.node(NodeB, shopPolicy)
	placed, err := shop.place(ctx, b.placing(customer, "K1"))
	if err != nil {
		return err
	}
	pay := b.paying(customer, "K1", placed.ID)
	shop.gateway.beforeSave = func(ctx context.Context) { b.Crash(ctx, NodeA, "dies before it saves the answer") }
	err = b.dies(ctx, NodeA, func() error {
		_, err := shop.charge(ctx, pay)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := other.charge(ctx, pay); err != nil && !errors.Is(err, dedup.ErrInProgress) {
		return err
	}
	if err := other.reconcile(ctx, placed.ID); err != nil {
		return err
	}
	_, err = other.charge(ctx, pay)
	return err
}

// dies runs work that must end by a crash of the actor, and draws that its client hears nothing.
func (b *Bench) dies(ctx context.Context, actor Actor, work func() error) error {
	finished, err := b.Process(work)
	if finished {
		return errors.Join(err, fmt.Errorf("%s did not crash", actor))
	}
	b.Loses(ctx, actor, Client, "no answer")
	return nil
}

// reconcile runs the node's reconciler until the order is paid.
func (n *node) reconcile(ctx context.Context, orderID uuid.UUID) error {
	n.bench.Does(ctx, n.actor, "reconciler: waits until the lease has run out")
	err := Until(ctx, "the reconciler to settle the charge", func(ctx context.Context) (bool, error) {
		if _, err := n.payments.ReconcileOnce(ctx); err != nil { // it may be about another run's charge
			n.bench.log.WarnContext(ctx, "the lab's reconciler failed", "error", err)
		}
		order, err := n.orders.Get(ctx, orderID)
		return order.Status == orders.Paid, err
	})
	if err != nil {
		return err
	}
	charges, err := n.payments.OfOrder(ctx, orderID)
	for _, charge := range charges {
		n.bench.Does(ctx, Database, "charge %s: %s, its order is paid", short(charge.ID.String()), charge.Status)
		n.bench.own(commitOf(charge.ID.String()))
	}
	return err
}

func twoTabs() Experiment {
	return Experiment{
		ID: "unique-two-tabs", Strategy: Unique,
		Predict: Prediction{Effect: "captures", Choices: []int{1, 2},
			Question: "Both tabs pay, each with its own key. How often does the naive shop take the money?"},
		Actors: []Actor{Client, NodeA, Database, Provider},
		Naive: Twin{Title: "a key per request", Expect: Duplicates,
			Constraint: []string{"internal/proof/lab/naive_orders.sql:idempotency_keys"},
			Statement: []string{"internal/proof/lab/unique_naive.go:naiveShop.payOncePerKey~INSERT",
				"internal/proof/lab/unique_naive.go:naiveShop.payOncePerKey~SELECT"},
			Code: []string{"internal/proof/lab/unique_naive.go:naiveShop.payOncePerKey"},
			Run:  naiveTabs},
		Guarded: Twin{Title: "one live charge per order", Expect: Holds,
			Constraint: []string{"db/migrations/00003_payments.sql:charges_one_live_per_order",
				"db/migrations/00003_payments.sql:charges_one_per_key"},
			Statement: []string{"db/queries/payments/charges.sql:InsertCharges"},
			Code:      []string{"internal/payments/charge.go:Service.startTx", "internal/payments/charge.go:refusal"},
			Run:       guardedTabs},
	}
}

func naiveTabs(ctx context.Context, b *Bench) error {
	shop := b.naiveShop(NodeA)
	shop.countCaptures()
	b.Says(ctx, Client, NodeA, "POST /orders")
	orderID, err := shop.insertOrder(ctx, "", 1)
	if err != nil {
		return err
	}
	pay := func(ctx context.Context, key string) error {
		b.Says(ctx, Client, NodeA, "POST /pay, key %s", key)
		err := shop.payOncePerKey(ctx, key, orderID, 1)
		if err == nil {
			b.Says(ctx, NodeA, Client, "200, paid")
		}
		return err
	}
	var second error
	shop.gateway.beforeSave = func(ctx context.Context) { second = pay(ctx, "tab-2") }
	first := pay(ctx, "tab-1")
	return errors.Join(first, second)
}

func guardedTabs(ctx context.Context, b *Bench) error {
	customer, err := b.sale(ctx)
	if err != nil {
		return err
	}
	shop := b.node(NodeA, shopPolicy)
	placed, err := shop.place(ctx, b.placing(customer, "cart"))
	if err != nil {
		return err
	}
	var second error
	shop.gateway.beforeSave = func(ctx context.Context) {
		_, second = shop.charge(ctx, b.paying(customer, "tab-2", placed.ID))
	}
	if _, err := shop.charge(ctx, b.paying(customer, "tab-1", placed.ID)); err != nil {
		return err
	}
	_, third := shop.charge(ctx, b.paying(customer, "tab-2", placed.ID))
	var live payments.InProgressError
	var paid payments.AlreadyPaidError
	if !errors.As(second, &live) || !errors.As(third, &paid) {
		return errors.Join(errors.New("the second tab was not refused twice"), second, third)
	}
	return nil
}
