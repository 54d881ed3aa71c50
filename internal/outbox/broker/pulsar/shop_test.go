package pulsar

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The whole shop on Pulsar: two nodes, buyers who send each request three times, and a broker that
// is killed three times. Every paid order gets one receipt, and all invariants hold.
func TestShop(t *testing.T) {
	t.Parallel()
	s := startServer(t, deduplicates)
	shop := apptest.Start(t, 2, func(c *app.Config) {
		c.NATSURL = "pulsar://" + s.broker
		c.Brokers = []app.BrokerClient{{Schemes: Schemes(), Connect: func(s app.BrokerSettings) (broker.Broker, error) {
			return Connect(s.URL, Settings{Cell: s.Cell, Consumers: s.Consumers, MaxAge: s.MaxAge}, quiet)
		}}}
	})
	const parts, each, twins = 4, 50, 3
	email := func(part, i int) string { return fmt.Sprintf("buyer%d-%d@example.com", part, i) }
	for part := range parts {
		if part > 0 {
			s.kill()
		}
		var buyers sync.WaitGroup
		turn := make(chan struct{}, 8)
		for i := range each {
			buyers.Go(func() {
				turn <- struct{}{}
				defer func() { <-turn }()
				buy(t, shop, email(part, i), twins)
			})
		}
		buyers.Wait()
		if part > 0 {
			s.start()
		}
		sent := part*each + 1
		shoptest.Eventually(t, 2*patience, "receipts are sent", func() bool {
			return shop.Count(t, "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL") >= int64(sent)
		})
	}
	shoptest.Eventually(t, 2*patience, "all receipts are sent", func() bool {
		return shop.Count(t, "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL") == parts*each &&
			shop.Count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0
	})
	for part := range parts {
		for i := range each {
			if mails := shop.Mails(t, email(part, i)); len(mails) != 1 {
				t.Errorf("%s got %v", email(part, i), mails)
			}
		}
	}
	config := shop.Config
	config.MailboxAddr = strings.TrimPrefix(shop.Mailbox, "http://")
	var report strings.Builder
	if err := app.Check(t.Context(), config, 0, 0, &report); err != nil {
		t.Errorf("shop check: %v\n%s", err, report.String())
	}
}

// buy places an order and pays it, with twins of both requests at the same time.
func buy(t *testing.T, shop *apptest.Shop, email string, twins int) {
	t.Helper()
	post := func(path, key, body string) (answer struct{ ID string }) {
		shoptest.Race(twins, func(i int) error {
			client := shop.Client(t, i%len(shop.Nodes), "demo-alice")
			for {
				response := client.Post(t.Context(), path, key, body)
				if response.Status == http.StatusConflict {
					continue
				}
				if response.Status != http.StatusCreated {
					t.Errorf("%s: %d %s", path, response.Status, response.Body)
				}
				if i == 0 {
					response.JSON(t, &answer)
				}
				return nil
			}
		})
		return answer
	}
	order := post("/v1/orders", "order-"+email, apptest.OrderBody(email, "MUG-ONCE", 1))
	post("/v1/orders/"+order.ID+"/charges", "pay-"+email, `{"payment_method":"pm_ok"}`)
}
