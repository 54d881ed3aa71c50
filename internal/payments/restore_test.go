package payments_test

import (
	"errors"
	"testing"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

// restore takes the tables back to the time when the order was placed. The provider keeps what it
// did.
func (b *bundle) restore(t *testing.T, order orders.Order) {
	t.Helper()
	for _, sql := range []string{
		`DELETE FROM refunds WHERE charge_id IN (SELECT id FROM charges WHERE order_id = $1)`,
		`DELETE FROM charges WHERE order_id = $1`,
		`DELETE FROM cancellations WHERE order_id = $1`,
		`DELETE FROM outbox WHERE order_id = $1 AND type <> 'order.placed'`,
		`UPDATE stock SET available = available - m.delta FROM stock_movements m
			WHERE m.sku = stock.sku AND m.order_id = $1 AND m.kind <> 'reserved' AND m.delta > 0`,
		`DELETE FROM stock_movements WHERE order_id = $1 AND kind <> 'reserved'`,
		`UPDATE orders SET status = 'placed' WHERE id = $1`,
	} {
		b.exec(t, sql, order.ID)
	}
}

// After a restore, repeated keys lead to the captures and refunds that the provider has.
func TestKeysAfterARestore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.charge(t, order, "pay", 201)
	part := int64(40)
	given, err := b.shop.Refund(t.Context(), b.refund(charge, "give", &part))
	if err != nil || given.Status != 201 {
		t.Fatalf("refund: %d %v", given.Status, err)
	}

	b.restore(t, order)
	if again := b.charge(t, order, "pay", 201); again.ID != charge.ID {
		t.Errorf("the charge is %s, before the restore it was %s", again.ID, charge.ID)
	}
	// The rest takes in what the provider gave back before the restore.
	if rest, err := b.shop.Refund(t.Context(), b.refund(charge, "rest", nil)); err != nil || rest.Status != 201 ||
		decode[payments.Refund](t, rest.Body).Amount != 60 {
		t.Errorf("the rest: %d %s %v", rest.Status, rest.Body, err)
	}
	other := part + 1
	if _, err := b.shop.Refund(t.Context(), b.refund(charge, "give", &other)); !errors.Is(err, dedup.ErrKeyReused) {
		t.Errorf("the refund's key with another amount: %v", err)
	}
	again, err := b.shop.Refund(t.Context(), b.refund(charge, "give", &part))
	if err != nil || again.Status != 201 || !again.Replayed || again.ID != given.ID {
		t.Errorf("the refund again: %+v, %v, want a replay of %s", again, err, given.ID)
	}
	b.moved(t, order, 1, 2)
}

// What the shop owes goes back once, although a restore lost that it went back.
func TestReturnAfterARestore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.charge(t, order, "pay", 201)
	for range 2 {
		if answer, err := b.cancel(t, order, "cancel"); err != nil || answer.Status != 200 {
			t.Fatalf("cancel: %d %v", answer.Status, err)
		}
		b.settleAll(t)
		b.moved(t, order, 1, 1)
		b.restore(t, order)
		b.charge(t, order, "pay", 201)
	}
	_, err := b.cancel(t, order, "cancel")
	if err != nil {
		t.Fatal(err)
	}
	b.settleAll(t)
	if refunds := b.count(t, "SELECT count(*) FROM refunds WHERE charge_id = $1", charge.ID); refunds != 1 {
		t.Errorf("%d refunds, want 1", refunds)
	}
	b.moved(t, order, 1, 1)
}

// moved expects that many captures of the order at the provider, and refunds of the first.
func (b *bundle) moved(t *testing.T, order orders.Order, captures, refunds int) {
	t.Helper()
	held := b.line.held(t, "order_id="+order.ID.String())
	if len(held) != captures {
		t.Fatalf("%d captures, want %d", len(held), captures)
	}
	given, err := b.line.provider.FindRefunds(t.Context(), held[0].ID)
	if err != nil || len(given) != refunds {
		t.Errorf("%d refunds, %v, want %d", len(given), err, refunds)
	}
}
