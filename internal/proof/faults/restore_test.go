package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// customers visit the shop, and remember what they were answered.
type customers struct {
	w *world

	mu      sync.Mutex
	answers map[string]apitest.Response // by key
}

func (c *customers) send(client *apitest.Client, path, key, body string) apitest.Response {
	answer := insist(c.w.t, client, path, key, body)
	c.mu.Lock()
	defer c.mu.Unlock()
	before, repeated := c.answers[key]
	if !repeated {
		c.answers[key] = answer
		return answer
	}
	// A refund that was rebuilt from the provider's records has a new time.
	same := bytes.Equal(before.Body, answer.Body) || strings.HasPrefix(key, "refund")
	if before.Status != answer.Status || !same || answer.Header.Get("Idempotent-Replayed") != "true" {
		c.w.t.Errorf("%s: %d %s, before the restore %d %s", key, answer.Status, answer.Body, before.Status, before.Body)
	}
	return answer
}

// order places order n.
func (c *customers) order(n int) (id string) {
	alice := c.w.Alice(c.w.t)
	placed := c.send(alice, "/v1/orders", fmt.Sprint("order-", n),
		apptest.OrderBody(fmt.Sprintf("buyer-%d@example.com", n), "MUG-ONCE", 1+n%3))
	var made struct{ ID string }
	placed.JSON(c.w.t, &made)
	return made.ID
}

// finish does the rest of visit n: most pay, and some of them change their mind.
func (c *customers) finish(n int, order string) {
	alice, admin := c.w.Alice(c.w.t), c.w.Admin(c.w.t)
	path := "/v1/orders/" + order
	pay := func(key, method string) (charge string) {
		answer := c.send(alice, path+"/charges", fmt.Sprint(key, "-", n), `{"payment_method":"`+method+`"}`)
		var made struct{ ID string }
		answer.JSON(c.w.t, &made)
		return made.ID
	}
	cancel := func() { c.send(alice, path+"/cancel", fmt.Sprint("cancel-", n), `{}`) }
	refund := func(charge, key, body string) {
		c.send(admin, "/v1/charges/"+charge+"/refunds", fmt.Sprintf("refund-%s-%d", key, n), body)
	}
	switch n % 10 {
	case 0:
		return // not paid
	case 1:
		cancel()
	case 2:
		pay("declined", "pm_declined")
		pay("pay", "pm_ok")
	case 3:
		pay("pay", "pm_ok")
		cancel()
	case 4:
		charge := pay("pay", "pm_ok")
		refund(charge, "part", `{"amount":100}`)
	case 5:
		charge := pay("pay", "pm_ok")
		refund(charge, "part", `{"amount":100}`)
		refund(charge, "rest", `{}`)
	default:
		pay("pay", "pm_ok")
	}
}

// each calls visit for the numbers, several at a time.
func each(from, to int, visit func(n int)) {
	var group sync.WaitGroup
	next := make(chan int)
	for range 8 {
		group.Go(func() {
			for n := range next {
				visit(n)
			}
		})
	}
	for n := from; n < to; n++ {
		next <- n
	}
	close(next)
	group.Wait()
}

// The database is restored to a point between two hundred orders. No node starts on it, until the
// events and the provider's records have brought it up to date. Then every key that was used is
// repeated: no money moves again, no mail is sent again, and every answer is the one of before.
func TestRestore(t *testing.T) {
	t.Parallel()
	for _, redisLost := range []bool{false, true} {
		t.Run(fmt.Sprintf("redis lost: %t", redisLost), func(t *testing.T) {
			t.Parallel()
			restoreBetween(t, redisLost)
		})
	}
}

func restoreBetween(t *testing.T, redisLost bool) {
	t.Helper()
	w := setup(t, settings{webhooks: true})
	n := w.node()
	deliver(t, w)
	c := &customers{w: w, answers: map[string]apitest.Response{}}
	orders := make([]string, 200)
	each(0, 100, func(n int) {
		if orders[n] = c.order(n); n >= 20 { // the first twenty pay after the backup
			c.finish(n, orders[n])
		}
	})
	w.settled()
	stop(t, n)
	restore := shoptest.Backup(t, w.environ["DATABASE_URL"])
	backup := time.Now()
	n = w.node()
	each(0, 200, func(n int) {
		if n >= 100 {
			orders[n] = c.order(n)
		}
		if n < 20 || n >= 100 {
			c.finish(n, orders[n])
		}
	})
	w.Pool = shoptest.Pool(t, w.environ["DATABASE_URL"])
	w.settled()
	n.Kill()
	money, mails := w.moved(), w.mails()
	restore()
	if redisLost {
		w.redis.FlushAll()
	}

	refused := w.launch(w.Nodes[0])
	if status := refused.AwaitExit(); status.ExitStatus() != 1 || !strings.Contains(refused.Output(), "shop recover") {
		t.Errorf("a node on the restored database ended with %d: %s", status.ExitStatus(), refused.Output())
	}
	config := w.config()
	config.Demo = true
	for range 2 { // it can be repeated
		var report shoptest.Transcript
		err := app.Recover(t.Context(), config, backup, quiet, &report, &report)
		t.Logf("%s", report.String())
		if err != nil {
			t.Fatal(err)
		}
	}
	w.Pool = shoptest.Pool(t, w.environ["DATABASE_URL"])
	w.node()
	each(0, 200, func(n int) {
		if got := c.order(n); got != orders[n] {
			t.Errorf("order %d is %s, before the restore it was %s", n, got, orders[n])
		}
		c.finish(n, orders[n])
	})
	// Nobody knows whether the receipts were sent that Redis does not remember. An operator looks
	// into the mail server's log.
	dead := w.Count(t, "SELECT count(*) FROM receipts WHERE dead_at IS NOT NULL")
	if redisLost && dead < 90 || !redisLost && dead > 45 { // a busy Redis misses some marks
		t.Errorf("%d receipts wait for an operator", dead)
	}
	w.Exec(t, "UPDATE receipts SET sent_at = now(), dead_at = NULL WHERE dead_at IS NOT NULL")
	w.settled()
	w.check(0)
	if got := w.moved(); got != money {
		t.Errorf("the provider moved money %d times, before the restore %d times", got, money)
	}
	if got := w.mails(); got != mails {
		t.Errorf("%d mails, before the restore %d", got, mails)
	}
}

// stop lets a node end in order.
func stop(t *testing.T, n *fleet.Node) {
	t.Helper()
	n.Signal(syscall.SIGTERM)
	if status := n.AwaitExit(); status.ExitStatus() != 0 {
		t.Fatalf("the node ended with %d", status.ExitStatus())
	}
}

// moved is how often the provider moved money.
func (w *world) moved() (n int) {
	w.t.Helper()
	var made struct{ Captures, Refunds []struct{ Status string } }
	for _, what := range []string{"captures", "refunds"} {
		w.read(w.Config.PSPURL+"/v1/"+what, &made)
	}
	for _, object := range append(made.Captures, made.Refunds...) {
		if object.Status == "succeeded" {
			n++
		}
	}
	return n
}

// mails is how many mails there are in all.
func (w *world) mails() int {
	w.t.Helper()
	var box struct{ Total int }
	w.read(w.Mailbox+"/api/v1/messages", &box)
	return box.Total
}

func (w *world) read(url string, into any) {
	w.t.Helper()
	status, body, err := fleet.Get(w.t, url)
	if err == nil && status == http.StatusOK {
		err = json.Unmarshal([]byte(body), into)
	}
	if err != nil || status != http.StatusOK {
		w.t.Fatalf("%s: %d %v", url, status, err)
	}
}
