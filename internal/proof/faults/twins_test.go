package faults

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Many at once over two nodes that are processes of their own, so that nothing but the database is
// between them.
func TestTwins(t *testing.T) { //nolint:tparallel // what is on sale ends with the parent
	t.Parallel()
	w := setup(t, settings{})
	w.node()
	w.another()
	deliver(t, w)
	post := func(i int, path, key, body string) apitest.Response {
		return w.Client(t, i%2, "demo-alice").Post(t.Context(), path, key, body)
	}
	//nolint:paralleltest // the world, and with it what is on sale, ends with the parent
	t.Run("a hundred with one key", func(t *testing.T) {
		const mug = `{"email":"twin@example.com","lines":[{"sku":"MUG-ONCE","quantity":1}]}`
		answers := shoptest.Race(110, func(i int) apitest.Response {
			if i >= 100 { // other buyers, who must not wait for the twins
				return post(i, "/v1/orders", fmt.Sprint("other-", i), mug)
			}
			return insist(t, w.Client(t, i%2, "demo-alice"), "/v1/orders", "twin", mug)
		})
		fresh := 0
		for i, a := range answers {
			if a.Status != http.StatusCreated || i < 100 && !bytes.Equal(a.Body, answers[0].Body) {
				t.Errorf("%d: %d %s", i, a.Status, a.Body)
			}
			if i < 100 && a.Header.Get("Idempotent-Replayed") == "" {
				fresh++
			}
		}
		if fresh != 1 || w.Count(t, "SELECT count(*) FROM orders") != 11 {
			t.Errorf("%d fresh answers, %d orders, want 1 and 11", fresh, w.Count(t, "SELECT count(*) FROM orders"))
		}
	})
	//nolint:paralleltest // see above
	t.Run("one key and two bodies", func(t *testing.T) {
		statuses := map[int]int{}
		for _, a := range shoptest.Race(40, func(i int) apitest.Response {
			return insist(t, w.Client(t, i/2%2, "demo-alice"), "/v1/orders", "two",
				fmt.Sprintf(`{"email":"twin@example.com","lines":[{"sku":"MUG-ONCE","quantity":%d}]}`, 1+i%2))
		}) {
			statuses[a.Status]++
		}
		if statuses[http.StatusCreated] != 20 || statuses[http.StatusUnprocessableEntity] != 20 {
			t.Errorf("answers %v", statuses)
		}
		if n := w.Count(t, "SELECT count(*) FROM orders WHERE idempotency_key = 'two'"); n != 1 {
			t.Errorf("%d orders", n)
		}
	})
	//nolint:paralleltest // see above
	t.Run("crossed baskets", func(t *testing.T) {
		baskets := []string{
			`{"email":"cross@example.com","lines":[{"sku":"MUG-ONCE","quantity":1},{"sku":"TEE-ONCE","quantity":1}]}`,
			`{"email":"cross@example.com","lines":[{"sku":"TEE-ONCE","quantity":1},{"sku":"MUG-ONCE","quantity":1}]}`,
		}
		for i, a := range shoptest.Race(200, func(i int) apitest.Response {
			return post(i/2, "/v1/orders", fmt.Sprint("cross-", i), baskets[i%2])
		}) {
			if a.Status != http.StatusCreated {
				t.Errorf("%d: %d %s", i, a.Status, a.Body)
			}
		}
	})
	//nolint:paralleltest // see above
	t.Run("two hundred buyers for one unit", func(t *testing.T) {
		statuses := map[int]int{}
		for _, a := range shoptest.Race(200, func(i int) apitest.Response {
			return post(i, "/v1/orders", fmt.Sprint("last-", i),
				`{"email":"last@example.com","lines":[{"sku":"LAST-ONE","quantity":1}]}`)
		}) {
			statuses[a.Status]++
		}
		if statuses[http.StatusCreated] != 1 || statuses[http.StatusConflict] != 199 {
			t.Errorf("answers %v", statuses)
		}
		if left := w.Count(t, "SELECT available FROM stock WHERE sku = 'LAST-ONE'"); left != 0 {
			t.Errorf("%d units are left", left)
		}
	})
	w.settled()
	w.check(0)
}
