package pulsar

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	// rounds have two relays each, which both die.
	rounds = 5
	// bought is how many orders there are at least, and twins how often each request is sent at
	// once.
	bought, twins = 200, 3
	// batch is how many buyers come at a time.
	batch = 8
)

// The whole shop on Pulsar: two nodes, buyers who send each request three times, ten relays that
// die, two at a time, and a broker that is killed three times. The broker has each event once,
// every paid order gets one receipt, and all invariants hold.
func TestShop(t *testing.T) {
	t.Parallel()
	s := startServer(t, deduplicates)
	b := s.connect(t, "") // its subscriptions keep every event
	shop := apptest.StartWeb(t, 2, func(c *app.Config) {
		c.BrokerURL = "pulsar://" + s.broker
		c.Brokers = []app.BrokerClient{{Schemes: Schemes(), Connect: func(s app.BrokerSettings) (broker.Broker, error) {
			return Connect(s.URL, Settings{Cell: s.Cell, Consumers: s.Consumers, MaxAge: s.MaxAge}, quiet)
		}}}
	})
	var emails []string
	buyBatch := func() {
		var buyers sync.WaitGroup
		for range batch {
			email := fmt.Sprintf("buyer-%d@example.com", len(emails))
			emails = append(emails, email)
			buyers.Go(func() { buy(t, shop, email, twins) })
		}
		buyers.Wait()
	}
	for round := range rounds {
		if round%2 == 0 {
			s.kill()
			buyBatch()
			s.start()
		}
		settings := relaySettings{Database: shop.Config.DatabaseURL, Broker: "pulsar://" + s.broker}
		var dead []func() bool
		for _, settings.Point = range []crash.Point{crash.RelayClaimed, crash.RelayPublished} {
			dead = append(dead, startRelay(t, settings))
		}
		for len(emails) < bought*(round+1)/rounds || !dead[0]() || !dead[1]() {
			if len(emails) > 4*bought {
				t.Fatalf("after %d orders the relays of round %d are alive", len(emails), round)
			}
			buyBatch()
		}
	}
	shop.StartWorker(t)
	shoptest.Eventually(t, 2*patience, "all receipts are sent", func() bool {
		return shop.Count(t, "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL") == int64(len(emails)) &&
			shop.Count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0
	})
	for _, email := range emails {
		if mails := shop.Mails(t, email); len(mails) != 1 {
			t.Errorf("%s got %v", email, mails)
		}
	}
	t.Logf("%d orders, %d events", len(emails), wantOnce(t, b, shop))
	config := shop.Config
	config.MailboxAddr = strings.TrimPrefix(shop.Mailbox, "http://")
	var report strings.Builder
	if err := app.Check(t.Context(), config, 0, 0, &report); err != nil {
		t.Errorf("shop check: %v\n%s", err, report.String())
	}
}

// wantOnce checks that the broker has each event of the shop once, and returns how many there are.
func wantOnce(t *testing.T, b *Broker, shop *apptest.Shop) int {
	t.Helper()
	times := map[uuid.UUID]int{}
	for _, body := range topic(t, b) {
		var event outbox.Event
		if err := json.Unmarshal([]byte(body), &event); err != nil {
			t.Fatal(err)
		}
		times[event.ID]++
	}
	rows, err := shop.Pool.Query(t.Context(), "SELECT id FROM outbox")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if n := times[id]; n != 1 {
			t.Errorf("the broker has event %s %d times", id, n)
		}
	}
	if len(times) != len(ids) {
		t.Errorf("the broker has %d events, want %d", len(times), len(ids))
	}
	return len(ids)
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
