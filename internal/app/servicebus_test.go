package app_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	outboxbroker "github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/shoptest"
)

var busSubscriptions = map[string]string{notify.ConsumerName: orders.EventPaid,
	outboxbroker.ProbeType: outboxbroker.ProbeType}

// The whole shop with Service Bus as its broker, which crashes while orders are paid: each paid
// order gets one receipt.
func TestWholeWayOnServiceBus(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	broker := shoptest.StartServiceBus(t, shoptest.ServiceBusOptions{
		Topic: servicebus.TopicOf(""), Subscriptions: busSubscriptions,
		Window: 10 * time.Minute, Lock: outboxbroker.HandleTimeout, MaxDeliveries: 100})
	shop := apptest.Start(t, 2, func(c *app.Config) { c.BrokerURL = broker.URL() })
	const n = 6
	for i := range n {
		email := fmt.Sprintf("buyer-%d@example.com", i)
		payTwins(t, shop, placeTwins(t, shop, email))
		if i%2 == 0 {
			broker.Restart()
		}
	}
	for i := range n {
		email := fmt.Sprintf("buyer-%d@example.com", i)
		shoptest.Eventually(t, 3*within, "the receipt arrives", func() bool { return len(shop.Mails(t, email)) > 0 })
	}
	shoptest.Eventually(t, within, "all events are sent, and all receipts recorded", func() bool {
		return shop.Count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0 &&
			shop.Count(t, "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL") == n
	})
	for i := range n {
		if mails := shop.Mails(t, fmt.Sprintf("buyer-%d@example.com", i)); len(mails) != 1 {
			t.Errorf("mails to buyer %d: %v, want one", i, mails)
		}
	}
}

// A topic without duplicate detection confirms a copy like any other message.
func TestServeRefusesATopicThatForgets(t *testing.T) {
	t.Parallel()
	topic := shoptest.StartServiceBus(t, shoptest.ServiceBusOptions{Topic: servicebus.TopicOf(""),
		Subscriptions: busSubscriptions, Window: 0, Lock: outboxbroker.HandleTimeout, MaxDeliveries: 100})
	refuse(t, topic.URL(), nil, "requiresDuplicateDetection")
}
