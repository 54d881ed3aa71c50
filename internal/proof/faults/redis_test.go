package faults

import (
	"bytes"
	"fmt"
	"net/url"
	"testing"

	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Whatever happens to Redis while receipts are on their way: each buyer gets one.
func TestRedis(t *testing.T) {
	t.Parallel()
	type breaker func(t *testing.T, w *world) (start, end func())
	around := func(harm func(n *network)) breaker {
		return func(t *testing.T, w *world) (start, end func()) {
			t.Helper()
			n, url := through(t, w.environ["REDIS_URL"])
			w.environ["REDIS_URL"] = url
			return func() { harm(n) }, n.heal
		}
	}
	direct := func(start func(w *world)) breaker {
		return func(_ *testing.T, w *world) (func(), func()) { return func() { start(w) }, func() {} }
	}
	for name, fault := range map[string]struct {
		breaker  breaker
		degraded bool // the database has to do without Redis, and a metric says so
	}{
		"down":                      {direct(func(w *world) { w.redis.Kill() }), true},
		"slow":                      {around(func(n *network) { n.slow(2000) }), true},
		"silent":                    {around((*network).swallow), true},
		"answer of a claim lost":    {loseClaims, true},
		"flushed":                   {direct(func(w *world) { w.redis.FlushAll() }), false},
		"failover that lost writes": {direct(func(w *world) { w.redis.Restart() }), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, settings{})
			start, end := fault.breaker(t, w)
			nodes := []*fleet.Node{w.node(), w.another()}
			var emails []string
			for i := range 12 {
				emails = append(emails, fmt.Sprintf("buyer-%d@example.com", i))
				w.buy(i%2, emails[i])
				if i == 3 || i == 6 && !fault.degraded {
					shoptest.Eventually(t, fleet.Soon, "some receipts arrive", func() bool {
						return w.count("receipts") > 0
					})
					start()
				}
			}
			w.settled() // with the fault still there
			end()
			w.receipts(emails...)
			w.check(0)
			sum := 0.0
			for _, n := range nodes {
				sum += n.Metric("onceshop_redis_degraded_total", "")
			}
			if fault.degraded && sum == 0 {
				t.Error("no receipt is counted as sent without Redis")
			}
		})
	}
}

// loseClaims lets Redis hear every claim and nobody hear its answer.
func loseClaims(t *testing.T, w *world) (start, end func()) {
	t.Helper()
	u, err := url.Parse(w.environ["REDIS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	proxy := shoptest.StartProxy(t, u.Host)
	u.Host = proxy.Addr()
	w.environ["REDIS_URL"] = u.String()
	lose := func(fate shoptest.Fate) func() {
		return func() {
			proxy.OnSend(func(sent []byte) shoptest.Fate {
				if bytes.Contains(bytes.ToUpper(sent), []byte("\r\nNX\r\n")) {
					return fate
				}
				return shoptest.Pass
			})
		}
	}
	return lose(shoptest.LoseAnswer), lose(shoptest.Pass)
}
