package orders_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestPlaceWritesEverythingAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10), line("POT", 5))
	answer := b.place(t, b.order("k", line("CUP", 4), line("POT", 1)))
	if answer.Status != 201 || answer.Replayed || !answer.Final {
		t.Errorf("answer %+v, want a first, final 201", answer)
	}
	order := decode[orders.Order](t, answer.Body)
	want := orders.Order{ID: answer.ID, Status: orders.Placed, Email: "alice@example.com", Currency: "EUR",
		Total: 4900, CreatedAt: order.CreatedAt,
		Lines: []orders.Line{{SKU: "CUP", Name: "Cup", Quantity: 4, UnitPrice: 250, Amount: 1000},
			{SKU: "POT", Name: "Teapot", Quantity: 1, UnitPrice: 3900, Amount: 3900}}}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("the answer differs (-want +got):\n%s", diff)
	}
	if age := time.Since(order.CreatedAt); age < 0 || age > time.Minute || order.CreatedAt.Location() != time.UTC {
		t.Errorf("created at %v", order.CreatedAt)
	}
	stored, err := b.shop.Get(t.Context(), answer.ID)
	if err != nil {
		t.Fatal(err)
	}
	want.CustomerID = b.alice
	if diff := cmp.Diff(want, stored); diff != "" {
		t.Errorf("the stored order differs from the answer (-want +got):\n%s", diff)
	}
	if cup, pot := b.available(t, "CUP"), b.available(t, "POT"); cup != 6 || pot != 4 {
		t.Errorf("available: %d cups, %d pots, want 6 and 4", cup, pot)
	}
	for what, sql := range map[string]string{
		"order": `SELECT count(*) FROM orders`,
		"placed event": `SELECT count(*) FROM outbox WHERE type = 'order.placed' AND payload->>'total' = '4900'
			AND payload->>'currency' = 'EUR'`,
		"event": `SELECT count(*) FROM outbox`,
		"transaction": `SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM orders UNION ALL SELECT xmin
			FROM order_lines UNION ALL SELECT xmin FROM stock_movements WHERE kind = 'reserved' UNION ALL SELECT xmin
			FROM outbox UNION ALL SELECT xmin FROM stock WHERE sku IN ('CUP', 'POT')) x`,
		"movement of cups": `SELECT count(*) FROM stock_movements WHERE kind = 'reserved' AND sku = 'CUP'
			AND quantity = 4`,
		"movement of pots": `SELECT count(*) FROM stock_movements WHERE kind = 'reserved' AND sku = 'POT'
			AND quantity = 1`,
	} {
		if n := b.count(t, sql); n != 1 {
			t.Errorf("%d × %s, want 1", n, what)
		}
	}
}

func TestPlaceReplaysByteForByte(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10))
	command := b.order("k", line("CUP", 2))
	first := b.place(t, command)
	// What has changed since then must not show in the answer.
	b.exec(t, "UPDATE products SET unit_price = 99999, name = 'Mug'")
	payOrder(t, b, first.ID)
	before := b.snapshot(t)
	for name, shop := range map[string]*orders.Service{"same node": b.shop, "another node": b.node(t)} {
		again, err := shop.Place(t.Context(), command)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Replayed || again.Status != first.Status || again.ID != first.ID || !again.Final ||
			!bytes.Equal(again.Body, first.Body) {
			t.Errorf("%s: %+v\n%s\nwant a replay of\n%s", name, again, again.Body, first.Body)
		}
		if id, err := shop.FindByKey(t.Context(), b.alice, "k"); err != nil || id != first.ID {
			t.Errorf("%s: FindByKey: %v, %v", name, id, err)
		}
	}
	b.unchanged(t, before)
	if new := decode[orders.Order](t, b.place(t, b.order("k2", line("CUP", 1))).Body); new.Total != 99999 {
		t.Errorf("a new order costs %d, want today's price", new.Total)
	}
}

func TestPlaceKeyWithAnotherMeaning(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10), line("POT", 10))
	b.place(t, b.order("k", line("CUP", 2), line("POT", 1)))
	before := b.snapshot(t)
	for name, c := range map[string]orders.PlaceOrder{
		"quantity":       b.order("k", line("CUP", 3), line("POT", 1)),
		"sku":            b.order("k", line("POT", 2), line("CUP", 1)),
		"order of lines": b.order("k", line("POT", 1), line("CUP", 2)),
		"a line less":    b.order("k", line("CUP", 2)),
		"split line":     b.order("k", line("CUP", 1), line("CUP", 1), line("POT", 1)),
		"unknown sku":    b.order("k", line("NONE", 2)),
		"too much":       b.order("k", line("CUP", 1000)),
		"email": {CustomerID: b.alice, Key: "k", Email: "alicia@example.com",
			Lines: []orders.LineRequest{line("CUP", 2), line("POT", 1)}},
	} {
		if answer, err := b.shop.Place(t.Context(), c); !errors.Is(err, dedup.ErrKeyReused) || answer.Body != nil {
			t.Errorf("%s: %s, %v, want ErrKeyReused", name, answer.Body, err)
		}
	}
	b.unchanged(t, before)
}

func TestPlaceKeyBelongsToACustomer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10))
	alices := b.place(t, b.order("k", line("CUP", 2)))
	bob := b.newCustomer(t)
	if _, err := b.shop.FindByKey(t.Context(), bob, "k"); !errors.Is(err, orders.ErrNotFound) {
		t.Errorf("Bob finds Alice's order by her key: %v", err)
	}
	command := b.order("k", line("CUP", 2))
	command.CustomerID = bob
	bobs := b.place(t, command)
	if bobs.ID == alices.ID || bobs.Replayed || bytes.Equal(bobs.Body, alices.Body) {
		t.Errorf("Bob got Alice's answer: %s", bobs.Body)
	}
	if left := b.available(t, "CUP"); left != 6 {
		t.Errorf("%d cups left, want 6", left)
	}
	// Keys are compared byte by byte.
	if other := b.place(t, b.order("K", line("CUP", 2))); other.Replayed {
		t.Error("K replayed k")
	}
}

func TestPlaceOutOfStockLeavesTheKeyUnused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 1), line("POT", 5))
	command := b.order("k", line("TEA", 1), line("CUP", 1), line("POT", 5), line("CUP", 1))
	before := b.snapshot(t)
	_, err := b.shop.Place(t.Context(), command)
	want := orders.OutOfStockError{Items: []orders.Shortage{{SKU: "CUP", Requested: 2, Available: 1},
		{SKU: "TEA", Requested: 1, Available: 0}}}
	var short orders.OutOfStockError
	if !errors.As(err, &short) || !slices.Equal(short.Items, want.Items) {
		t.Errorf("%v, want %v", err, want)
	}
	b.unchanged(t, before)
	if _, err := b.shop.FindByKey(t.Context(), b.alice, "k"); !errors.Is(err, orders.ErrNotFound) {
		t.Errorf("the key is bound: %v", err)
	}
	b.deliver(t, line("CUP", 1), line("TEA", 1))
	if answer := b.place(t, command); answer.Replayed || answer.Status != 201 {
		t.Errorf("after the delivery: %+v", answer)
	}
	// The refused key may also come to mean something else.
	if _, err := b.shop.Place(t.Context(), b.order("k3", line("CUP", 1))); !errors.As(err, &short) {
		t.Errorf("%v, want out of stock", err)
	}
	b.deliver(t, line("POT", 1))
	b.place(t, b.order("k3", line("POT", 1)))
}

func TestPlaceRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 1_000_000), line("TEA", 10))
	yen := orders.Product{SKU: "YEN", Name: "Yen", Description: "In yen.", Currency: "JPY", UnitPrice: 100}
	if err := b.shop.AddProduct(t.Context(), yen, 9); err != nil {
		t.Fatal(err)
	}
	b.deliver(t, line("YEN", 5))
	hundred := slices.Repeat([]orders.LineRequest{line("CUP", 1)}, 100)
	before := b.snapshot(t)
	for name, tc := range map[string]struct {
		lines []orders.LineRequest
		email string
		field string
	}{
		"quantity 0": {lines: []orders.LineRequest{line("CUP", 0)}, field: "lines[0].quantity"},
		"quantity -1": {lines: []orders.LineRequest{line("CUP", 1), line("CUP", -1)},
			field: "lines[1].quantity"},
		"quantity over 10^6": {lines: []orders.LineRequest{line("CUP", 1_000_001)}, field: "lines[0].quantity"},
		"quantity 2^63-1": {lines: []orders.LineRequest{line("CUP", 1<<63-1), line("CUP", 1<<63-1)},
			field: "lines[0].quantity"},
		"no lines":  {lines: []orders.LineRequest{}, field: "lines"},
		"101 lines": {lines: append(hundred[:100:100], line("CUP", 1)), field: "lines"},
		"no sku":    {lines: []orders.LineRequest{line("", 1)}, field: "lines[0].sku"},
		"sku with a NUL byte": {lines: []orders.LineRequest{line("CUP", 1), line("a\x00b", 1)},
			field: "lines[1].sku"},
		"sku that is not UTF-8": {lines: []orders.LineRequest{line("a\xffb", 1)}, field: "lines[0].sku"},
		"mixed currencies":      {lines: []orders.LineRequest{line("CUP", 1), line("YEN", 1)}, field: "lines[1].sku"},
		"no email":              {email: "-", field: "email"},
		"email without @":       {email: "alice", field: "email"},
		"email with a name":     {email: "Alice <alice@example.com>", field: "email"},
		"email in brackets":     {email: "<alice@example.com>", field: "email"},
		"two emails":            {email: "alice@example.com, bob@example.com", field: "email"},
		"email and a space":     {email: " alice@example.com", field: "email"},
		"email with a newline":  {email: "alice@example.com\r\nBcc: bob@example.com", field: "email"},
		"email beyond ASCII":    {email: "alicé@example.com", field: "email"},
		"email of 255":          {email: strings.Repeat("a", 243) + "@example.com", field: "email"},
		"email with a NUL byte": {email: "\"a\x00\"@example.com", field: "email"},
	} {
		c := b.order("k", tc.lines...)
		if tc.lines == nil {
			c.Email, c.Lines = strings.TrimPrefix(tc.email, "-"), []orders.LineRequest{line("CUP", 1)}
		}
		_, err := b.shop.Place(t.Context(), c)
		var invalid problem.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != tc.field {
			t.Errorf("%s: %v, want a problem.InvalidError in %s", name, err, tc.field)
		}
	}
	_, err := b.shop.Place(t.Context(), b.order("k", line("cup", 1), line("CUP", 1), line("NONE", 1), line("NONE", 2)))
	var unknown orders.UnknownSKUError
	if !errors.As(err, &unknown) || !slices.Equal(unknown.SKUs, []string{"NONE", "cup"}) {
		t.Errorf("%v, want an orders.UnknownSKUError for NONE and cup", err)
	}
	b.unchanged(t, before)
	// What is just allowed, and the key is still free.
	c := b.order("k", hundred...)
	b62 := strings.Repeat("b", 62)
	c.Email = strings.Repeat("a", 64) + "@" + b62 + "." + b62 + "." + b62[:59] + ".com"
	b.place(t, c)
	b.place(t, b.order("k4", line("CUP", 999_900)))
}

func TestPlaceSameSKUOnTwoLines(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 5), line("POT", 1))
	answer := b.place(t, b.order("k", line("CUP", 2), line("POT", 1), line("CUP", 3)))
	if left := b.available(t, "CUP"); left != 0 {
		t.Errorf("%d cups left, want 0", left)
	}
	if n := b.count(t, "SELECT count(*) FROM stock_movements WHERE kind = 'reserved' AND sku = 'CUP' AND quantity "+
		"= 5"); n != 1 {
		t.Errorf("%d reservations of 5 cups, want 1", n)
	}
	stored, err := b.shop.Get(t.Context(), answer.ID)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range stored.Lines {
		lines = append(lines, fmt.Sprint(l.Quantity, l.SKU))
	}
	if want := []string{"2CUP", "1POT", "3CUP"}; !slices.Equal(lines, want) {
		t.Errorf("lines %v, want %v", lines, want)
	}
}

// placed is what one of many callers was told.
type placed struct {
	answer dedup.Answer
	err    error
}

func TestPlaceHundredTwinsOverTwoNodes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 1000), line("POT", 1000))
	nodes := []*orders.Service{b.shop, b.node(t)}
	command := b.order("twin", line("POT", 1), line("CUP", 3))
	results := shoptest.Race(100, func(i int) placed {
		answer, err := nodes[i%2].Place(t.Context(), command)
		return placed{answer, err}
	})
	first := 0
	for i, r := range results {
		if r.err != nil {
			t.Fatalf("twin %d: %v", i, r.err)
		}
		if !r.answer.Replayed {
			first++
		}
		if !bytes.Equal(r.answer.Body, results[0].answer.Body) || r.answer.Status != 201 ||
			r.answer.ID != results[0].answer.ID {
			t.Errorf("twin %d was told\n%s\nand twin 0\n%s", i, r.answer.Body, results[0].answer.Body)
		}
	}
	if first != 1 {
		t.Errorf("%d of the twins made the order, want 1", first)
	}
	for _, table := range []string{"orders", "outbox", "stock_movements WHERE kind = 'reserved' AND sku = 'CUP'",
		"stock_movements WHERE kind = 'reserved' AND sku = 'POT'"} {
		if n := b.count(t, "SELECT count(*) FROM "+table); n != 1 {
			t.Errorf("%d × %s, want 1", n, table)
		}
	}
	if cup, pot := b.available(t, "CUP"), b.available(t, "POT"); cup != 997 || pot != 999 {
		t.Errorf("available: %d cups, %d pots, want 997 and 999", cup, pot)
	}
}

func TestPlaceOneKeyTwoMeaningsAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 100))
	nodes := []*orders.Service{b.shop, b.node(t)}
	results := shoptest.Race(20, func(i int) placed {
		answer, err := nodes[i/2%2].Place(t.Context(), b.order("k", line("CUP", int64(1+i%2))))
		return placed{answer, err}
	})
	told, refused := 0, 0
	for _, r := range results {
		switch {
		case r.err == nil:
			told++
		case errors.Is(r.err, dedup.ErrKeyReused):
			refused++
		default:
			t.Error(r.err)
		}
	}
	if told != 10 || refused != 10 {
		t.Errorf("%d got the order and %d were refused, want 10 and 10", told, refused)
	}
	if n := b.count(t, "SELECT count(*) FROM orders"); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
}

func TestPlaceTwoHundredBuyersOneUnit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("POT", 1))
	nodes := []*orders.Service{b.shop, b.node(t)}
	results := shoptest.Race(200, func(i int) placed {
		answer, err := nodes[i%2].Place(t.Context(), b.order(dedup.Key(fmt.Sprint("buyer-", i)), line("POT", 1)))
		return placed{answer, err}
	})
	sold := 0
	for _, r := range results {
		var short orders.OutOfStockError
		switch {
		case r.err == nil:
			sold++
		case !errors.As(r.err, &short):
			t.Error(r.err)
		case !slices.Equal(short.Items, []orders.Shortage{{SKU: "POT", Requested: 1, Available: 0}}):
			t.Errorf("told %+v", short.Items)
		}
	}
	if sold != 1 {
		t.Errorf("%d sales, want 1", sold)
	}
	if left := b.available(t, "POT"); left != 0 {
		t.Errorf("%d pots left, want 0", left)
	}
	for _, table := range []string{"orders", "order_lines", "outbox", "stock_movements WHERE kind = 'reserved'"} {
		if n := b.count(t, "SELECT count(*) FROM "+table); n != 1 {
			t.Errorf("%d × %s, want 1", n, table)
		}
	}
}

func TestPlaceCrossedBasketsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 200), line("POT", 200))
	nodes := []*orders.Service{b.shop, b.node(t)}
	results := shoptest.Race(200, func(i int) placed {
		basket := []orders.LineRequest{line("CUP", 1), line("POT", 1)}
		if i%2 == 1 {
			slices.Reverse(basket)
		}
		answer, err := nodes[i/2%2].Place(t.Context(), b.order(dedup.Key(uuid.NewString()), basket...))
		return placed{answer, err}
	})
	for i, r := range results {
		if r.err != nil {
			t.Errorf("basket %d: %v", i, r.err)
		}
	}
	if cup, pot := b.available(t, "CUP"), b.available(t, "POT"); cup != 0 || pot != 0 {
		t.Errorf("available: %d cups, %d pots, want none", cup, pot)
	}
	if n := b.deadlocks(t); n != 0 {
		t.Errorf("Postgres had to break %d deadlocks", n)
	}
}
