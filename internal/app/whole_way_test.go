package app_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const within = 20 * time.Second

// One order, one charge, one stock movement, one receipt: HTTP in, witnesses out.
func TestWholeWay(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	order := placeTwins(t, shop, "alice@example.com")
	payTwins(t, shop, order)

	shoptest.Eventually(t, within, "the receipt arrives", func() bool {
		return len(shop.Mails(t, "alice@example.com")) > 0
	})
	awaitQuiet(t, shop)
	mails := shop.Mails(t, "alice@example.com")
	if len(mails) != 1 || mails[0] != "receipt."+order.ID.String()+"@localhost" {
		t.Errorf("mails %v", mails)
	}
	if captures := shop.Captures(t, order.ID.String()); len(captures) != 1 || captures[0].Amount != order.Total {
		t.Errorf("captures %+v", captures)
	}
	for query, want := range map[string]int64{
		"SELECT count(*) FROM orders":                                  1,
		"SELECT count(*) FROM stock_movements WHERE kind = 'reserved'": 1,
		"SELECT count(*) FROM stock_movements WHERE kind = 'sold'":     1,
		"SELECT available FROM stock WHERE sku = 'MUG-ONCE'":           999,
		// placed, paying, paid
		"SELECT count(*) FROM outbox":                                                                                3,
		"SELECT count(*) FROM outbox WHERE sent_at IS NULL":                                                          0,
		"SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL":                                                    1,
		"SELECT count(*) FROM stock s WHERE available <> (SELECT sum(delta) FROM stock_movements WHERE sku = s.sku)": 0,
	} {
		if got := shop.Count(t, query); got != want {
			t.Errorf("%s: %d, want %d", query, got, want)
		}
	}
}

// placeTwins sends one order a hundred times at once over two nodes, as impatient clients do.
func placeTwins(t *testing.T, shop *apptest.Shop, email string) orders.Order {
	t.Helper()
	return settledTwins[orders.Order](t, shop, "/v1/orders", "order-"+email, apptest.OrderBody(email, "MUG-ONCE", 1))
}

func payTwins(t *testing.T, shop *apptest.Shop, order orders.Order) {
	t.Helper()
	settledTwins[struct{}](t, shop, "/v1/orders/"+order.ID.String()+"/charges", "pay-"+order.ID.String(),
		`{"payment_method":"pm_ok"}`)
}

// settledTwins expects one fresh answer and the same bytes for the rest, who may have to come again
// after a 409.
func settledTwins[T any](t *testing.T, shop *apptest.Shop, path, key, body string) (result T) {
	t.Helper()
	answers := shoptest.Race(100, func(i int) apitest.Response {
		client := shop.Client(t, i%len(shop.Nodes), "demo-alice")
		for {
			if answer := client.Post(t.Context(), path, key, body); answer.Status != http.StatusConflict {
				return answer
			}
		}
	})
	fresh := 0
	for _, a := range answers {
		if a.Status != http.StatusCreated || !bytes.Equal(a.Body, answers[0].Body) {
			t.Fatalf("got %d %s", a.Status, a.Body)
		}
		if a.Header.Get("Idempotent-Replayed") == "" {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d fresh answers", fresh)
	}
	answers[0].JSON(t, &result)
	return result
}

// Redis dies in the middle of sending: every paid order still gets exactly one receipt.
func TestRedisDiesWhileReceiptsAreSent(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	redis := shoptest.StartRedis(t)
	shop := apptest.Start(t, 2, func(c *app.Config) { c.RedisURL = redis.URL() })
	const buyers = 30
	for i := range buyers {
		if i == buyers/2 {
			shoptest.Eventually(t, within, "some receipts arrive", func() bool {
				return shop.Count(t, "SELECT count(*) FROM receipts") > 0
			})
			redis.Kill()
		}
		buy(t, shop, fmt.Sprintf("buyer%d@example.com", i))
	}
	shoptest.Eventually(t, within, "every receipt is recorded", func() bool {
		return shop.Count(t, "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL") == buyers
	})
	awaitQuiet(t, shop)
	for i := range buyers {
		if mails := shop.Mails(t, fmt.Sprintf("buyer%d@example.com", i)); len(mails) != 1 {
			t.Errorf("buyer %d got %v", i, mails)
		}
	}
}

// The broker is away: checkout goes on, and the backlog drains when it is back.
func TestCheckoutWithoutBroker(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	nats := newBroker(t)
	shop := apptest.Start(t, 1, func(c *app.Config) { c.BrokerURL = nats.url })
	order := buy(t, shop, "patient@example.com")
	if order.Status != orders.Paid {
		t.Fatalf("the order is %s", order.Status)
	}
	if mails := shop.Mails(t, "patient@example.com"); len(mails) != 0 {
		t.Fatalf("a receipt without a broker: %v", mails)
	}
	nats.start(t)
	shoptest.Eventually(t, within, "the receipt arrives", func() bool {
		return len(shop.Mails(t, "patient@example.com")) == 1
	})
}

// buy places and pays an order and returns it as it stands then.
func buy(t *testing.T, shop *apptest.Shop, email string) orders.Order {
	t.Helper()
	alice := shop.Alice(t)
	var order orders.Order
	alice.Post(t.Context(), "/v1/orders", "order-"+email, apptest.OrderBody(email, "MUG-ONCE", 1)).JSON(t, &order)
	paid := alice.Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", "pay-"+email,
		`{"payment_method":"pm_ok"}`)
	if paid.Status != http.StatusCreated {
		t.Fatalf("charge: %d %s", paid.Status, paid.Body)
	}
	alice.Get(t.Context(), "/v1/orders/"+order.ID.String()).JSON(t, &order)
	return order
}

// awaitQuiet waits until every event is sent and every delivery acknowledged.
func awaitQuiet(t *testing.T, shop *apptest.Shop) {
	t.Helper()
	shoptest.Eventually(t, within, "the outbox is empty", func() bool {
		return shop.Count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0
	})
	shoptest.Eventually(t, within, "every receipt is acknowledged", func() bool { return shop.Pending(t) == 0 })
}
