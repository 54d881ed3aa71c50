package orders_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// counter is what a shop does that serves one buyer after another.
type counter struct {
	stock map[string]int64
	keys  map[dedup.Key]orders.PlaceOrder
}

// serve returns what must come of the next command: 201, 422, or 409 for a shortage.
func (k *counter) serve(c orders.PlaceOrder) int {
	if first, ok := k.keys[c.Key]; ok {
		if first.Fingerprint() == c.Fingerprint() {
			return http.StatusCreated
		}
		return http.StatusUnprocessableEntity
	}
	wanted := map[string]int64{}
	for _, l := range c.Lines {
		wanted[l.SKU] += l.Quantity
	}
	for sku, n := range wanted {
		if k.stock[sku] < n {
			return http.StatusConflict
		}
	}
	for sku, n := range wanted {
		k.stock[sku] -= n
	}
	k.keys[c.Key] = c
	return http.StatusCreated
}

func statusOf(t rapid.TB, o coalesce.Outcome[dedup.Answer]) int {
	t.Helper()
	var short orders.OutOfStockError
	switch {
	case o.Err == nil:
		return o.Answer.Status
	case errors.Is(o.Err, dedup.ErrKeyReused):
		return http.StatusUnprocessableEntity
	case errors.As(o.Err, &short):
		return http.StatusConflict
	}
	t.Fatalf("an outcome that is none: %v", o.Err)
	return 0
}

// Orders that are placed together come out as if they had been placed one after another.
func TestPlaceTogetherIsPlaceInTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		skus := []string{fmt.Sprintf("A%d", run), fmt.Sprintf("B%d", run)}
		shop := counter{stock: map[string]int64{}, keys: map[dedup.Key]orders.PlaceOrder{}}
		for i, sku := range skus {
			if err := b.shop.AddProduct(t.Context(),
				orders.Product{SKU: sku, Name: sku, Currency: "EUR", UnitPrice: 100}, i); err != nil {
				rt.Fatal(err)
			}
			shop.stock[sku] = rapid.Int64Range(1, 12).Draw(rt, "stock")
			b.deliver(t, line(sku, shop.stock[sku]))
		}
		for range rapid.IntRange(1, 3).Draw(rt, "batches") {
			shop.together(rt, b, skus, fmt.Sprint(run))
		}
		for sku, left := range shop.stock {
			if n := b.available(t, sku); int64(n) != left {
				rt.Errorf("%d of %s left, want %d", n, sku, left)
			}
		}
	})
}

// together places a batch and compares it with the counter.
func (k *counter) together(t *rapid.T, b *bundle, skus []string, run string) {
	var commands []orders.PlaceOrder
	var want []int
	refused := map[dedup.Key]dedup.Fingerprint{}
	for range rapid.IntRange(1, 25).Draw(t, "commands") {
		c := b.order(dedup.Key(fmt.Sprint(run, "-", rapid.IntRange(0, 15).Draw(t, "key"))))
		for range rapid.IntRange(1, 2).Draw(t, "lines") {
			c.Lines = append(c.Lines, line(rapid.SampledFrom(skus).Draw(t, "sku"),
				rapid.Int64Range(1, 3).Draw(t, "quantity")))
		}
		if before, ok := refused[c.Key]; ok && before != c.Fingerprint() {
			continue // it gets another turn, behind the others
		}
		status := k.serve(c)
		if status == http.StatusConflict {
			refused[c.Key] = c.Fingerprint()
		}
		commands, want = append(commands, c), append(want, status)
	}
	outcomes, err := orders.PlaceAll(t.Context(), b.shop, commands)
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[dedup.Key][]byte{}
	for i, o := range outcomes {
		if got := statusOf(t, o); got != want[i] {
			t.Errorf("command %d (%+v) came to %d, want %d", i, commands[i], got, want[i])
		}
		if o.Err != nil {
			continue
		}
		first, again := bodies[commands[i].Key]
		if again && (!o.Answer.Replayed || !slices.Equal(first, o.Answer.Body)) {
			t.Errorf("command %d: replayed %t with %s, the first answer was %s", i, o.Answer.Replayed, o.Answer.Body,
				first)
		}
		bodies[commands[i].Key] = o.Answer.Body
	}
}

// The second meaning of a key whose first could not be served is served after it.
func TestPlaceTogetherSecondMeaningOfAKeyThatIsFree(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 3))
	outcomes, err := orders.PlaceAll(t.Context(), b.shop, []orders.PlaceOrder{
		b.order("k", line("CUP", 4)), b.order("k", line("CUP", 2)), b.order("k", line("CUP", 4)),
		b.order("k", line("CUP", 2)), b.order("k", line("CUP", 1))})
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, o := range outcomes {
		got = append(got, statusOf(t, o))
	}
	if want := []int{409, 201, 422, 201, 422}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if left := b.available(t, "CUP"); left != 1 {
		t.Errorf("%d cups left, want 1", left)
	}
}

// A buyer whose order the database refuses spoils nobody else's.
func TestPlaceGuiltyAmongOthers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 100))
	failures := shoptest.Race(40, func(i int) error {
		c := b.order(dedup.Key(fmt.Sprint("k", i)), line("CUP", 1))
		if i == 20 {
			c.CustomerID = uuid.New() // no customer of the shop
		}
		_, err := b.shop.Place(t.Context(), c)
		return err
	})
	for i, err := range failures {
		if (err != nil) != (i == 20) {
			t.Errorf("buyer %d: %v", i, err)
		}
	}
	if left := b.available(t, "CUP"); left != 61 {
		t.Errorf("%d cups left, want 61", left)
	}
}

// A retry of a request that was sent before the fields existed must find its order.
func TestFieldsThatAreAbsentLeaveTheFingerprint(t *testing.T) {
	t.Parallel()
	c := orders.PlaceOrder{Email: "alice@example.com", Lines: []orders.LineRequest{{SKU: "CUP", Quantity: 1}}}
	want := dedup.FingerprintOf(json.RawMessage(`{"email":"alice@example.com","lines":[{"sku":"CUP","quantity":1}]}`))
	if c.Fingerprint() != want {
		t.Error("the fingerprint without a total has changed")
	}
	total := int64(250)
	c.ExpectedTotal = &total
	if c.Fingerprint() == want {
		t.Error("the total is not part of the fingerprint")
	}
}
