package api_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/shoptest"
	"github.com/onceshop/onceshop/internal/timeline"
)

// patience bounds every wait, on a machine with other work.
const patience = 30 * time.Second

// told is a timeline as "layer: decision: detail".
func told(t *testing.T, client *apitest.Client, order uuid.UUID) (lines []string) {
	t.Helper()
	answer := client.Get(t.Context(), "/v1/orders/"+order.String()+"/timeline")
	expect(t, answer, 200, "")
	var body struct{ Events []timeline.Event }
	answer.JSON(t, &body)
	if !slices.IsSortedFunc(body.Events, func(a, b timeline.Event) int { return a.At.Compare(b.At) }) {
		t.Errorf("not oldest first: %s", answer.Body)
	}
	if bytes.Contains(answer.Body, []byte("secret-key")) {
		t.Errorf("the timeline gives a key away: %s", answer.Body)
	}
	for _, e := range body.Events {
		lines = append(lines, e.Layer+": "+e.Decision+": "+e.Detail)
	}
	return lines
}

// missing returns the first part that no line has; in order, each has to come after the one before.
func missing(lines []string, inOrder bool, parts ...string) string {
	for _, part := range parts {
		at := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, part) })
		if at < 0 {
			return part
		}
		if inOrder {
			lines = lines[at+1:]
		}
	}
	return ""
}

func TestTimeline(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 2)
	alice, elsewhere := shop.Alice(t), shop.Client(t, 1, "demo-alice")
	var order orders.Order
	alice.Post(t.Context(), "/v1/orders", "secret-key-1", mug).JSON(t, &order)
	expect(t, alice.Post(t.Context(), "/v1/orders", "secret-key-1", mug), 201, "")
	expect(t, elsewhere.Post(t.Context(), "/v1/orders", "secret-key-1", mug), 201, "")
	expect(t, elsewhere.Post(t.Context(), "/v1/orders", "secret-key-1", strings.Replace(mug, "2", "3", 1)), 422,
		"idempotency_key_reused")
	charges := "/v1/orders/" + order.ID.String() + "/charges"
	expect(t, alice.Post(t.Context(), charges, "secret-key-2", `{"payment_method":"pm_webhook_storm"}`), 201, "")
	expect(t, alice.Post(t.Context(), charges, "secret-key-2", `{"payment_method":"pm_webhook_storm"}`), 201, "")
	expect(t, alice.Post(t.Context(), charges, "secret-key-3", `{"payment_method":"pm_ok"}`), 409, "order_already_paid")

	var lines []string
	stopped := []string{
		"memory: stopped: The request to order was repeated",
		"unique key: stopped: The request to order was repeated",
		"unique key: stopped: A different request to order used the same key",
		"memory: stopped: The request to pay was repeated",
		"unique key: stopped: A request to pay under another key found the order paid",
		"unique key: stopped: The provider's event (capture.succeeded) was delivered again",
		"outbox: sent: The event order.paid is number", "webhook: ", "receipt: sent",
	}
	shoptest.Eventually(t, patience, "all is told", func() bool {
		lines = told(t, alice, order.ID)
		return missing(lines, false, stopped...) == "" && !slices.ContainsFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "outbox: waiting")
		})
	})
	if part := missing(lines, true, "unique key: first: The order was placed", "stock: reserved: 2 × MUG-ONCE",
		"unique key: first: The charge", "provider: asked: To take €28.00",
		"provider: succeeded: The provider took the money", "stock: sold: 2 × MUG-ONCE",
		"receipt: claimed", "receipt: sent"); part != "" {
		t.Errorf("%q does not come in its turn:\n%s", part, strings.Join(lines, "\n"))
	}
	// The provider's storm may go on meanwhile.
	admin := shop.Admin(t)
	shoptest.Eventually(t, patience, "an admin reads the same", func() bool {
		return slices.Equal(told(t, admin, order.ID), told(t, alice, order.ID))
	})
}

func TestTimelineOfAnEndedOrder(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	var canceled, expired orders.Order
	alice.Post(t.Context(), "/v1/orders", "k1", mug).JSON(t, &canceled)
	expect(t, alice.Post(t.Context(), "/v1/orders/"+canceled.ID.String()+"/charges", "k2",
		`{"payment_method":"pm_ok"}`), 201, "")
	for range 2 {
		expect(t, alice.Post(t.Context(), "/v1/orders/"+canceled.ID.String()+"/cancel", "k3", nil), 200, "")
	}
	alice.Post(t.Context(), "/v1/orders", "k4", mug).JSON(t, &expired)
	shop.Exec(t, "UPDATE orders SET expires_at = now() - interval '1 day' WHERE id = $1", expired.ID)

	shoptest.Eventually(t, patience, "the cancellation is told", func() bool {
		lines := told(t, alice, canceled.ID)
		return missing(lines, true, "unique key: canceled", "stock: returned: 2 × MUG-ONCE",
			"unique key: first: The refund", "provider: refunded") == "" &&
			missing(lines, false, "memory: stopped: The request to cancel was repeated",
				"webhook: known: The provider's event",
				"(refund.succeeded) contained nothing new") == ""
	})
	shoptest.Eventually(t, patience, "the expiry is told", func() bool {
		return missing(told(t, alice, expired.ID), true, "stock: reserved", "expiry: expired") == "" &&
			missing(told(t, alice, expired.ID), true, "stock: reserved", "stock: released") == ""
	})
}

// The relay repeats itself, and then a publisher forgets the message id: the broker knows the first
// twin, Redis the second, or the row if Redis is too slow to tell.
func TestTimelineOfRepeatedEvents(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	var order orders.Order
	alice.Post(t.Context(), "/v1/orders", "k1", mug).JSON(t, &order)
	expect(t, alice.Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", "k2", `{"payment_method":"pm_ok"}`),
		201, "")
	shoptest.Eventually(t, patience, "the receipt is sent", func() bool {
		return missing(told(t, alice, order.ID), false, "order.paid is number", "receipt: sent") == ""
	})
	shop.Exec(t, "UPDATE outbox SET sent_at = NULL, stream_seq = NULL, claimed_until = '-infinity' WHERE type = "+
		"'order.paid'")
	shoptest.Eventually(t, patience, "the broker's twin is told", func() bool {
		return missing(told(t, alice, order.ID), false, "broker: stopped: The relay published the event again",
			"order.paid is number") == ""
	})
	shop.Exec(t, "UPDATE outbox SET id = gen_random_uuid(), sent_at = NULL, claimed_until = '-infinity' WHERE type "+
		"= 'order.paid'")
	shoptest.Eventually(t, patience, "the receipt's twin is told", func() bool {
		return missing(told(t, alice, order.ID), false, "stopped: The paid event was delivered again") == ""
	})
	if mails := shop.Mails(t, "alice@example.com"); len(mails) != 1 {
		t.Errorf("mails %v", mails)
	}
}

func TestTimelineOfAnUnknownCharge(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	alice := shop.Alice(t)
	var order orders.Order
	alice.Post(t.Context(), "/v1/orders", "k1", mug).JSON(t, &order)
	charges := "/v1/orders/" + order.ID.String() + "/charges"
	expect(t, alice.Post(t.Context(), charges, "k2", `{"payment_method":"pm_error_before_capture"}`), 202, "")
	expect(t, alice.Post(t.Context(), charges, "k3", `{"payment_method":"pm_ok"}`), 409, "charge_in_progress")
	shoptest.Eventually(t, patience, "the charge's healing is told", func() bool {
		lines := told(t, alice, order.ID)
		return missing(lines, true, "provider: asked", "provider: unknown", "provider: asked again",
			"provider: succeeded: The provider took the money, once. Its first answer never came") == "" &&
			missing(lines, false, "unique key: stopped: A request to pay under another key found this charge in "+
				"progress") == ""
	})
}

func TestTimelineIsItsOwners(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1)
	var order orders.Order
	shop.Alice(t).Post(t.Context(), "/v1/orders", "k1", mug).JSON(t, &order)
	path := "/v1/orders/%s/timeline"
	expect(t, shop.Bob(t).Get(t.Context(), fmt.Sprintf(path, order.ID)), 404, "not_found")
	expect(t, shop.Alice(t).Get(t.Context(), fmt.Sprintf(path, uuid.New())), 404, "not_found")
	expect(t, shop.Alice(t).Get(t.Context(), fmt.Sprintf(path, "nonsense")), 404, "not_found")
	expect(t, shop.Client(t, 0, "").Get(t.Context(), fmt.Sprintf(path, order.ID)), 401, "unauthorized")
}
