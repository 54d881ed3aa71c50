package orders_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
)

func TestListPagesThroughOwnOrders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 100), line("TEA", 100))
	bob := b.newCustomer(t)
	var alices []uuid.UUID // newest first
	var bobs uuid.UUID
	for i := range 5 {
		c := b.order(dedup.Key(fmt.Sprint("k", i)), line("CUP", int64(i+1)), line("TEA", 1))
		alices = slices.Insert(alices, 0, b.place(t, c).ID)
		c.CustomerID = bob
		bobs = b.place(t, c).ID
	}
	list := func(customer uuid.UUID, limit int32, after *uuid.UUID) ([]uuid.UUID, bool) {
		t.Helper()
		page, more, err := b.shop.List(t.Context(), customer, limit, after)
		if err != nil {
			t.Fatal(err)
		}
		ids := []uuid.UUID{}
		for _, order := range page {
			if order.CustomerID != customer {
				t.Errorf("order %s of another customer is in the list", order.ID)
			}
			one, err := b.shop.Get(t.Context(), order.ID)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(one) != fmt.Sprint(order) || len(order.Lines) != 2 {
				t.Errorf("the list has %+v, Get has %+v", order, one)
			}
			ids = append(ids, order.ID)
		}
		return ids, more
	}
	unknown := uuid.Max
	for name, tc := range map[string]struct {
		limit int32
		after *uuid.UUID
		want  []uuid.UUID
		more  bool
	}{
		"first page":           {2, nil, alices[:2], true},
		"second page":          {2, &alices[1], alices[2:4], true},
		"last page":            {2, &alices[3], alices[4:], false},
		"behind the last":      {2, &alices[4], alices[5:], false},
		"exactly all":          {5, nil, alices, false},
		"one less than all":    {4, nil, alices[:4], true},
		"more than all":        {100, nil, alices, false},
		"after no order":       {100, &unknown, alices, false},
		"after another's last": {100, &bobs, alices, false},
	} {
		if got, more := list(b.alice, tc.limit, tc.after); !slices.Equal(got, tc.want) || more != tc.more {
			t.Errorf("%s: %v, more: %v, want %v, %v", name, got, more, tc.want, tc.more)
		}
	}
	if got, more := list(b.newCustomer(t), 10, nil); len(got) != 0 || more {
		t.Errorf("a new customer has orders: %v, %v", got, more)
	}
}

func TestGetWithoutOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if _, err := b.shop.Get(t.Context(), uuid.New()); !errors.Is(err, orders.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
}

func TestProducts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("POT", 7))
	again := orders.Product{SKU: "POT", Name: "Another pot", Description: "No.", Currency: "USD", UnitPrice: 1}
	if err := b.shop.AddProduct(t.Context(), again, 0); err != nil {
		t.Errorf("adding a product again: %v", err)
	}
	all, err := b.shop.Products(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := orders.Product{SKU: "POT", Name: "Teapot", Description: "A pot.", Currency: "EUR", UnitPrice: 3900,
		Available: 7}
	if len(all) != 3 || all[1] != want {
		t.Errorf("products %+v, want the second of three to be %+v", all, want)
	}
}

func TestPlacedLately(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 100), line("TEA", 100))
	begin := time.Now().Add(-time.Minute)
	lines := []orders.LineRequest{line("CUP", 2), line("TEA", 1)}
	first := b.place(t, b.order("first", lines...)).ID
	lately := func(customer uuid.UUID, key dedup.Key, since time.Time, lines ...orders.LineRequest) uuid.UUID {
		t.Helper()
		order, err := b.shop.PlacedLately(t.Context(), customer, key, lines, since)
		if err != nil && !errors.Is(err, orders.ErrNotFound) {
			t.Fatal(err)
		}
		return order.ID
	}
	for name, tc := range map[string]struct {
		got, want uuid.UUID
	}{
		"the same":         {lately(b.alice, "second", begin, lines...), first},
		"in another order": {lately(b.alice, "second", begin, line("TEA", 1), line("CUP", 2)), first},
		"on other lines": {lately(b.alice, "second", begin, line("CUP", 1), line("TEA", 1), line("CUP", 1)),
			first},
		"under its own key":   {lately(b.alice, "first", begin, lines...), uuid.Nil},
		"of another customer": {lately(b.newCustomer(t), "second", begin, lines...), uuid.Nil},
		"too long ago":        {lately(b.alice, "second", time.Now().Add(time.Minute), lines...), uuid.Nil},
		"fewer units":         {lately(b.alice, "second", begin, line("CUP", 1), line("TEA", 1)), uuid.Nil},
		"a part of it":        {lately(b.alice, "second", begin, line("CUP", 2)), uuid.Nil},
		"more than it": {lately(b.alice, "second", begin, line("CUP", 2), line("TEA", 1), line("POT", 1)),
			uuid.Nil},
		"a product with no name": {lately(b.alice, "second", begin, line("NO-SUCH", 2)), uuid.Nil},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %s, want %s", name, tc.got, tc.want)
		}
	}
	newest := b.place(t, b.order("third", lines...)).ID
	if got := lately(b.alice, "second", begin, lines...); got != newest {
		t.Errorf("%s, want the newest, %s", got, newest)
	}
	if err := change(t, b.pool, b.shop, newest, orders.Canceled); err != nil {
		t.Fatal(err)
	}
	if got := lately(b.alice, "second", begin, lines...); got != first {
		t.Errorf("%s, want %s: the newest was canceled", got, first)
	}
}
