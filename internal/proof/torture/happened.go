package torture

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/onceshop/onceshop/internal/notify"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/proof/kill"
	"github.com/onceshop/onceshop/internal/timeline"
)

// demanding is how long a run must be for everything to have happened in it; long, for everything
// to have happened often.
const (
	demanding = 90 * time.Second
	long      = 30 * time.Minute
)

// Happened is something that a run must have met at least so often, or it has shown little.
type Happened struct {
	What  string `json:"what"`
	Times int64  `json:"times"`
	Least int64  `json:"least"`
}

// lateBy is how old an event of the provider must be to count as late.
const lateBy = 2 * time.Second

// What a broker is asked for, or told by it.
const (
	redelivered = "events delivered again by the broker"
	repeated    = "events stopped at the broker as repeated"
)

// inLogs are what nodes log, whose counters would die with them.
var inLogs = map[string]string{
	"claims that went on without Redis": `"msg":"going on without Redis"`,
	repeated:                            `"msg":"broker stopped a duplicate"`,
	"second receipts stopped":           `"msg":"stopped a second receipt"`,
	"charges with an unknown outcome":   `"msg":"the outcome of a charge is unknown"`,
	"charges settled by the reconciler": `"msg":"reconciled a charge"`,
}

// countHappened counts everything that must have happened.
func (r *run) countHappened(w witnessed) ([]Happened, error) {
	var all []Happened
	add := func(what string, times, least int64) {
		if !r.leaves(what) {
			all = append(all, Happened{what, times, least})
		}
	}
	add("operations", r.count.operations.Load(), r.leastOperations())
	for _, p := range kill.Points() {
		add("crash at "+string(p), r.count.crashes[p], r.leastCrashes())
	}
	for _, k := range r.kinds {
		add("fault "+k.name, r.count.faults[k.name], int64(leastFaults(r.Duration)))
	}
	add("fault "+restored, r.count.faults[restored], int64(min(1, leastFaults(r.Duration))))
	for _, kind := range []string{"201", "201 replayed", "402 declined", "402 replayed",
		"402 refund_failed", "202", "409 out_of_stock",
		"409 request_in_progress", "409 charge_in_progress",
		"409 order_already_paid", "422 idempotency_key_reused", "503 unavailable", "no answer"} {
		add("answer "+kind, r.count.answers[kind], 1)
	}
	logged, err := r.countLogs()
	if err != nil {
		return nil, err
	}
	for what, times := range logged {
		add(what, times, 1)
	}
	add(redelivered, w.redelivered, 1)
	add("decisions of buyers at their banks", r.count.decisions.Load(), 1)
	add("refunds made outside the shop", r.count.outside.Load(), 1)
	add("events of the provider that came late", w.late, 1)
	for _, layer := range []string{"unique key", "memory", "redis", "broker", "fencing token"} {
		add("twins stopped by: "+layer, w.stopped[layer], 1)
	}
	slices.SortStableFunc(all, func(a, b Happened) int { return bytes.Compare([]byte(a.What), []byte(b.What)) })
	return all, nil
}

// witnessed is what the tables and the broker tell of a run. A restore takes it away.
type witnessed struct {
	late, redelivered int64
	stopped           map[string]int64
}

func (r *run) witness(ctx context.Context) (w witnessed, err error) {
	if w.late, w.redelivered, err = r.countDeliveries(ctx); err == nil {
		w.stopped, err = r.countStopped(ctx)
	}
	return w, err
}

func (r *run) countLogs() (map[string]int64, error) {
	counts := map[string]int64{}
	for what := range inLogs {
		counts[what] = 0
	}
	for _, n := range r.nodes {
		file, err := os.Open(filepath.Join(r.dir, n.name+".log"))
		if err != nil {
			return nil, fmt.Errorf("read a node's log: %w", err)
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if bytes.Contains(lines.Bytes(), []byte(`"msg":"request"`)) {
				continue
			}
			for what, message := range inLogs {
				if bytes.Contains(lines.Bytes(), []byte(message)) {
					counts[what]++
				}
			}
		}
	}
	return counts, nil
}

// countDeliveries counts the provider's events that came late and ours that came again.
func (r *run) countDeliveries(ctx context.Context) (late, redelivered int64, err error) {
	var paid int64
	err = r.servers.postgres.direct().QueryRow(ctx, `SELECT
		(SELECT count(*) FROM provider_events
			WHERE received_at - (convert_from(payload, 'UTF8')::json->>'timestamp')::timestamptz > $1::interval),
		(SELECT count(*) FROM outbox WHERE type = 'order.paid')`, lateBy).Scan(&late, &paid)
	if err != nil {
		return 0, 0, fmt.Errorf("count deliveries: %w", err)
	}
	b := r.servers.broker
	if !b.keeps() {
		return late, 0, nil
	}
	js, conn, err := b.jetStream()
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	consumer, err := js.Consumer(ctx, natsbroker.EventStreamOf(b.cell), notify.ConsumerName)
	if err != nil {
		return 0, 0, fmt.Errorf("ask the broker about its consumer: %w", err)
	}
	return late, int64(consumer.CachedInfo().Delivered.Consumer) - paid, nil //nolint:gosec // a run does not reach 2^63
}

func (r *run) countStopped(ctx context.Context) (map[string]int64, error) {
	rows, err := r.servers.postgres.direct().Query(ctx, "SELECT kind, sum(times) FROM stopped_twins GROUP BY kind")
	if err != nil {
		return nil, fmt.Errorf("count stopped twins: %w", err)
	}
	defer rows.Close()
	stopped := map[string]int64{}
	for rows.Next() {
		var kind timeline.Kind
		var times int64
		if err := rows.Scan(&kind, &times); err != nil {
			return nil, fmt.Errorf("count stopped twins: %w", err)
		}
		stopped[kind.Layer()] += times
	}
	return stopped, rows.Err()
}

// demand makes what has not happened a violation, if there was time for it.
func (r *run) demand(all []Happened) {
	for _, h := range all {
		if h.Times < h.Least && r.Duration >= demanding {
			r.troubled("the run proves too little: %s %d times, wanted %d", h.What, h.Times, h.Least)
		}
	}
}
