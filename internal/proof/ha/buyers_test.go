package ha

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const buyer = "alice@example.com"

// buyers order and pay, each order under keys of its own. They send again what has no final answer,
// with the same key and body.
type buyers struct {
	w     *world
	group sync.WaitGroup
	leave context.CancelFunc
	begun time.Time

	mu       sync.Mutex
	answers  map[string]apitest.Response // 201s by key
	open     map[string]request          // without a final answer, by key
	ordered  []time.Time                 // when new orders were acknowledged
	failures []string                    // requests without an answer, and 5xx
}

type request struct{ path, body string }

// buy lets buyers come, spread over the addresses, until the test stops them.
func (w *world) buy(count int, addresses ...string) *buyers {
	w.t.Helper()
	ctx, leave := context.WithCancel(w.t.Context())
	b := &buyers{w: w, leave: leave, begun: time.Now(), answers: map[string]apitest.Response{},
		open: map[string]request{}}
	w.t.Cleanup(b.stop)
	w.crowds++
	crowd := w.crowds
	for i := range count {
		client := apitest.NewClient(w.t, "http://"+addresses[i%len(addresses)], w.token)
		b.group.Go(func() {
			for visit := 0; ctx.Err() == nil; visit++ {
				b.visit(ctx, client, fmt.Sprintf("%d-%d-%d", crowd, i, visit))
			}
		})
	}
	return b
}

// stop sends the buyers home when their requests under way are answered.
func (b *buyers) stop() {
	b.leave()
	b.group.Wait()
}

func (b *buyers) visit(ctx context.Context, client *apitest.Client, key string) {
	placed, ok := b.insist(ctx, client, "order-"+key, request{"/v1/orders", apptest.OrderBody(buyer, "TEE-ONCE", 1)})
	if !ok {
		return
	}
	b.mu.Lock()
	b.ordered = append(b.ordered, time.Now())
	b.mu.Unlock()
	var order struct{ ID string }
	placed.JSON(b.w.t, &order)
	b.insist(ctx, client, "pay-"+key, request{"/v1/orders/" + order.ID + "/charges", `{"payment_method":"pm_ok"}`})
	// A crowd that never pauses would measure the machine.
	select {
	case <-ctx.Done():
	case <-time.After(rand.N(60 * time.Millisecond)):
	}
}

// insist sends the request until it is answered with 201 or the buyer leaves.
func (b *buyers) insist(ctx context.Context, client *apitest.Client, key string, r request) (apitest.Response, bool) {
	b.mu.Lock()
	b.open[key] = r
	b.mu.Unlock()
	for {
		// A request under way is answered also when the buyers are sent home.
		answer, err := client.Try(context.WithoutCancel(ctx), http.MethodPost, r.path, key, r.body)
		if b.record(key, answer, err) {
			return answer, true
		}
		select {
		case <-ctx.Done():
			return answer, false
		case <-time.After(20*time.Millisecond + rand.N(80*time.Millisecond)):
		}
	}
}

func (b *buyers) record(key string, answer apitest.Response, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil:
		b.failures = append(b.failures, fmt.Sprintf("%s: %v", key, err))
	case answer.Status == http.StatusCreated:
		b.answers[key] = answer
		delete(b.open, key)
		return true
	case answer.Status >= http.StatusInternalServerError:
		b.failures = append(b.failures, fmt.Sprintf("%s: %d %s", key, answer.Status, answer.Body))
	}
	return false
}

// acknowledged is how many orders were acknowledged so far.
func (b *buyers) acknowledged() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.ordered)
}

// failed is how many requests had no answer so far, or a 5xx.
func (b *buyers) failed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.failures)
}

// more waits until so many more orders have been acknowledged.
func (b *buyers) more(n int) {
	b.w.t.Helper()
	before := b.acknowledged()
	shoptest.Eventually(b.w.t, fleet.Healed, fmt.Sprintf("%d more orders", n), func() bool {
		return b.acknowledged() >= before+n
	})
}

// again returns how long after the moment the first order was acknowledged.
func (b *buyers) again(t *testing.T, moment time.Time) (after time.Duration) {
	t.Helper()
	shoptest.Eventually(t, fleet.Healed, "an order is acknowledged", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		i := slices.IndexFunc(b.ordered, moment.Before)
		if i >= 0 {
			after = b.ordered[i].Sub(moment)
		}
		return i >= 0
	})
	return after.Round(time.Millisecond)
}

// gap is the longest time without a new order.
func (b *buyers) gap() (longest time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := b.begun
	for _, at := range b.ordered {
		longest, last = max(longest, at.Sub(last)), at
	}
	return longest.Round(time.Millisecond)
}

// verify ends the load and compares what the buyers were told with the database and the witnesses.
// It logs the figures.
func (b *buyers) verify() {
	t, w := b.w.t, b.w
	t.Helper()
	b.stop()
	b.resolve()
	w.Pool.Reset() // its sessions may lead to a server that is lost
	lost := 0
	for key, answer := range b.answers {
		if n := w.Count(t, `SELECT (SELECT count(*) FROM orders WHERE idempotency_key = $1 AND answer = $2)
			+ (SELECT count(*) FROM charges WHERE idempotency_key = $1 AND answer = $2)`, key, answer.Body); n != 1 {
			lost++
			t.Errorf("%s was answered 201 %s, and %d rows have that answer", key, bytes.TrimSpace(answer.Body), n)
		}
	}
	w.settled()
	twice := w.check()
	if twice != 0 {
		t.Errorf("%d orders have two receipts", twice)
	}
	t.Logf("FIGURES longest gap without a new order %s, acknowledged %d orders, lost %d, receipts twice %d, requests "+
		"that failed and were repeated %d", b.gap(), b.acknowledged(), lost, twice, len(b.failures))
	for _, failure := range b.failures[:min(3, len(b.failures))] {
		t.Logf("for example %s", failure)
	}
}

// resolve sends once more what has no final answer.
func (b *buyers) resolve() {
	b.w.t.Helper()
	ctx, cancel := context.WithTimeout(b.w.t.Context(), fleet.Healed)
	defer cancel()
	client := apitest.NewClient(b.w.t, "http://"+b.w.nodes[0].addr, b.w.token)
	b.mu.Lock()
	var keys []string
	for key := range b.open {
		keys = append(keys, key)
	}
	b.mu.Unlock()
	for _, key := range keys {
		if _, ok := b.insist(ctx, client, key, b.open[key]); !ok {
			b.w.t.Errorf("%s has no final answer", key)
		}
	}
}
