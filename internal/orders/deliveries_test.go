package orders_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestReceiveOncePerKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	command := orders.ReceiveDelivery{CustomerID: b.alice, Key: "k",
		Lines: []orders.LineRequest{line("CUP", 3), line("POT", 1), line("CUP", 4)}}
	first, err := b.shop.Receive(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	delivery := decode[orders.Delivery](t, first.Body)
	want := orders.Delivery{ID: first.ID, Lines: command.Lines, CreatedAt: delivery.CreatedAt}
	if diff := cmp.Diff(want, delivery); diff != "" || first.Status != 201 || first.Replayed || !first.Final {
		t.Errorf("answer %+v differs (-want +got):\n%s", first, diff)
	}
	before := b.snapshot(t)
	for name, shop := range map[string]*orders.Service{"same node": b.shop, "another node": b.node(t)} {
		again, err := shop.Receive(t.Context(), command)
		if err != nil || !again.Replayed || !bytes.Equal(again.Body, first.Body) || again.ID != first.ID ||
			again.Status != 201 {
			t.Errorf("%s: %+v, %v, want a replay", name, again, err)
		}
	}
	other := command
	other.Lines = []orders.LineRequest{line("CUP", 7), line("POT", 1)}
	if _, err := b.shop.Receive(t.Context(), other); !errors.Is(err, dedup.ErrKeyReused) {
		t.Errorf("the key with another meaning: %v", err)
	}
	b.unchanged(t, before)
	if cup, pot := b.available(t, "CUP"), b.available(t, "POT"); cup != 7 || pot != 1 {
		t.Errorf("available: %d cups, %d pots, want 7 and 1", cup, pot)
	}
	// The key belongs to a customer and to one operation.
	other = command
	other.CustomerID = b.newCustomer(t)
	if answer, err := b.shop.Receive(t.Context(), other); err != nil || answer.Replayed {
		t.Errorf("another customer's key: %+v, %v", answer, err)
	}
	b.place(t, b.order("k", line("CUP", 14)))
}

func TestReceiveTwins(t *testing.T) {
	t.Parallel()
	b := setup(t)
	nodes := []*orders.Service{b.shop, b.node(t)}
	command := orders.ReceiveDelivery{CustomerID: b.alice, Key: "k", Lines: []orders.LineRequest{line("CUP", 3)}}
	results := shoptest.Race(50, func(i int) placed {
		answer, err := nodes[i%2].Receive(t.Context(), command)
		return placed{answer, err}
	})
	for i, r := range results {
		if r.err != nil || !bytes.Equal(r.answer.Body, results[0].answer.Body) {
			t.Errorf("twin %d: %s, %v", i, r.answer.Body, r.err)
		}
	}
	if n, cup := b.count(t, "SELECT count(*) FROM deliveries"), b.available(t, "CUP"); n != 1 || cup != 3 {
		t.Errorf("%d deliveries, %d cups, want 1 and 3", n, cup)
	}
}

func TestReceiveRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.snapshot(t)
	thousand := slices.Repeat([]orders.LineRequest{line("CUP", 1)}, 1000)
	receive := func(lines ...orders.LineRequest) error {
		_, err := b.shop.Receive(t.Context(), orders.ReceiveDelivery{CustomerID: b.alice, Key: "k", Lines: lines})
		return err
	}
	for field, lines := range map[string][]orders.LineRequest{
		"lines":             append(thousand[:1000:1000], line("CUP", 1)),
		"lines[0].quantity": {line("CUP", 0)},
		"lines[1].quantity": {line("CUP", 1), line("CUP", 1_000_001)},
		"lines[1].sku":      {line("CUP", 1), line("\x00", 1)},
	} {
		var invalid problem.InvalidError
		if err := receive(lines...); !errors.As(err, &invalid) || invalid.Field != field {
			t.Errorf("%v, want a problem.InvalidError in %s", err, field)
		}
	}
	if err := receive(); err == nil {
		t.Error("a delivery without lines was received")
	}
	var unknown orders.UnknownSKUError
	if err := receive(line("b", 1), line("CUP", 1), line("a", 1)); !errors.As(err, &unknown) ||
		!slices.Equal(unknown.SKUs, []string{"a", "b"}) {
		t.Errorf("%v, want an orders.UnknownSKUError for a and b", err)
	}
	b.unchanged(t, before)
	if err := receive(thousand...); err != nil {
		t.Errorf("the refused key is bound: %v", err)
	}
}
