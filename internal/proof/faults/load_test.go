package faults

import (
	"context"
	"fmt"
	"maps"
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

// load is a crowd of buyers who order and pay, each order under keys of its own, and send again
// what was not answered for good.
type load struct {
	w       *world
	buyers  sync.WaitGroup
	leave   context.CancelFunc
	leaving context.Context //nolint:containedctx // the buyers', who come and go together

	mu       sync.Mutex
	requests map[string]request          // by key
	answers  map[string]apitest.Response // final ones, by key
	statuses map[int]int                 // of all answers
	broken   []broken
}

type request struct{ path, body string }

// broken is a request without an answer.
type broken struct {
	key string
	err error
}

// load lets buyers come until the load is stopped.
func (w *world) load(buyers int) *load {
	w.t.Helper()
	l := &load{w: w, requests: map[string]request{}, answers: map[string]apitest.Response{}, statuses: map[int]int{}}
	l.leaving, l.leave = context.WithCancel(w.t.Context())
	w.t.Cleanup(l.stop)
	for i := range buyers {
		client := w.Client(w.t, i%len(w.Nodes), "demo-alice")
		l.buyers.Go(func() {
			for visit := 0; l.leaving.Err() == nil; visit++ {
				l.visit(client, fmt.Sprintf("%d-%d", i, visit))
			}
		})
	}
	return l
}

// stop sends the buyers home, once their requests under way are answered.
func (l *load) stop() {
	l.leave()
	l.buyers.Wait()
}

func (l *load) visit(client *apitest.Client, key string) {
	placed, ok := l.insist(client, "order-"+key, request{"/v1/orders", apptest.OrderBody(buyer, "TEE-ONCE", 1)})
	if !ok {
		return
	}
	var order struct{ ID string }
	placed.JSON(l.w.t, &order)
	l.insist(client, "pay-"+key, request{"/v1/orders/" + order.ID + "/charges", `{"payment_method":"pm_ok"}`})
	// A crowd that never pauses would measure the machine.
	select {
	case <-l.leaving.Done():
	case <-time.After(rand.N(60 * time.Millisecond)):
	}
}

// insist sends the request until it is answered for good or the buyer leaves.
func (l *load) insist(client *apitest.Client, key string, r request) (apitest.Response, bool) {
	l.mu.Lock()
	l.requests[key] = r
	l.mu.Unlock()
	for {
		// What was sent is waited for, also when the buyers are called home.
		answer, err := client.Try(context.WithoutCancel(l.leaving), http.MethodPost, r.path, key, r.body)
		if l.record(key, answer, err) {
			return answer, answer.Status == http.StatusCreated
		}
		select {
		case <-l.leaving.Done():
			return answer, false
		case <-time.After(20*time.Millisecond + rand.N(80*time.Millisecond)):
		}
	}
}

func (l *load) record(key string, answer apitest.Response, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.broken = append(l.broken, broken{key, err})
		return false
	}
	l.statuses[answer.Status]++
	if !final(answer) {
		return false
	}
	l.answers[key] = answer
	return true
}

// seen is how often a status was answered so far; 0 stands for requests without an answer.
func (l *load) seen(status int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if status == 0 {
		return len(l.broken)
	}
	return l.statuses[status]
}

// awaitMore waits until so many more orders and charges have been answered.
func (l *load) awaitMore(n int) {
	l.w.t.Helper()
	before := l.seen(http.StatusCreated)
	shoptest.Eventually(l.w.t, fleet.Healed, "buyers are served", func() bool {
		return l.seen(http.StatusCreated) >= before+n
	})
}

// cuts returns the requests that a node had carried out without a word to whoever sent them. Those
// that it never took find no connection, or one that is closed.
func (l *load) cuts() []broken {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.broken), func(b broken) bool {
		return l.w.Count(l.w.t, `SELECT (SELECT count(*) FROM orders WHERE idempotency_key = $1) + (SELECT count(*)
			FROM charges WHERE idempotency_key = $1)`, b.key) == 0
	})
}

// verify ends the load and holds everything that a buyer was told against the database: no answer
// is untrue. What was never answered is sent once more, which tells what became of it.
func (l *load) verify() {
	t := l.w.t
	t.Helper()
	l.stop()
	for status := range maps.Keys(l.statuses) {
		switch status {
		case http.StatusCreated, http.StatusAccepted, http.StatusConflict, http.StatusServiceUnavailable:
		default:
			t.Errorf("%d answers with the status %d", l.statuses[status], status)
		}
	}
	l.w.Pool.Reset() // a fault may have ended its sessions
	client := l.w.Alice(t)
	for key, r := range l.requests {
		if _, told := l.answers[key]; !told {
			l.answers[key] = insist(t, client, r.path, key, r.body)
		}
	}
	for key, answer := range l.answers {
		if n := l.w.Count(t, `SELECT (SELECT count(*) FROM orders WHERE idempotency_key = $1 AND answer = $2
			AND 201 = $3)
			+ (SELECT count(*) FROM charges WHERE idempotency_key = $1 AND answer = $2
				AND answer_status = $3)`, key, answer.Body, answer.Status); n != 1 {
			t.Errorf("%s was answered %d %s, and %d rows say so", key, answer.Status, answer.Body, n)
		}
	}
	t.Logf("%d requests answered, %d times nothing came, statuses %v", len(l.answers), len(l.broken), l.statuses)
	l.w.settled()
	l.w.check(0)
}

// deliver puts so many units on sale that no load sells out.
func deliver(t *testing.T, w *world) {
	t.Helper()
	answer := w.Admin(t).Post(t.Context(), "/v1/deliveries", "plenty",
		`{"lines":[{"sku":"TEE-ONCE","quantity":1000000},{"sku":"MUG-ONCE","quantity":1000000}]}`)
	if answer.Status != http.StatusCreated {
		t.Fatalf("delivery: %d %s", answer.Status, answer.Body)
	}
}
