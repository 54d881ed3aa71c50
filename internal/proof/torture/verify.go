package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/onceshop/onceshop/internal/check"
)

// healing is how long the shop may take, once every fault is over, until nothing is on its way any
// more.
const healing = time.Minute

// settleAndCheck heals everything, asks again for every key, and checks.
func (r *run) settleAndCheck(ctx context.Context) (report Report, err error) {
	r.tell("healing")
	begin := time.Now()
	for _, n := range r.nodes {
		n.soothe()
	}
	if err := r.awaitReady(ctx); err != nil {
		r.fail("healing", "the nodes do not get ready: "+err.Error())
	}
	healed := r.drain(ctx)
	r.drained = time.Since(begin)
	r.tell("quiet after %s", r.drained.Round(100*time.Millisecond))
	w, err := r.witness(ctx)
	if err != nil {
		return report, err
	}
	if err := r.checkTwins(ctx); err != nil {
		return report, err
	}
	checks := []func(context.Context) error{r.check, r.compare, r.compareDeclines, r.compareFailures,
		r.compareRefusals}
	if r.backup.dir != "" {
		if err := r.restore(ctx); err != nil {
			return report, err
		}
		r.count.fault(restored)
		checks = append(checks, r.checkMails)
	}
	r.tell("sending every key once more")
	r.askAgain(ctx)
	if healed { // what does not heal in a minute is told once
		r.drain(ctx)
	}
	r.tell("checking")
	for _, check := range checks {
		if err := check(ctx); err != nil {
			return report, err
		}
	}
	happened, err := r.countHappened(w)
	if err != nil {
		return report, err
	}
	r.demand(happened)
	return r.report(ctx, happened), nil
}

// drain waits until nothing is under way, and reports whether that came true in time.
func (r *run) drain(ctx context.Context) (healed bool) {
	var open int64
	err := poll(ctx, healing, func() (bool, error) {
		if err := r.decideAll(ctx); err != nil {
			return false, err
		}
		pool := r.servers.postgres.direct()
		err := pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM charges WHERE settled_at IS NULL)
			+ (SELECT count(*) FROM refunds WHERE status IN ('pending', 'unknown')) + (SELECT count(*) FROM outbox
				WHERE sent_at IS NULL)
			+ (SELECT count(*) FROM provider_events WHERE state = 'received' AND type LIKE 'refund.%')
			+ (SELECT count(*) FROM outbox e WHERE e.type = 'order.paid' AND NOT EXISTS (SELECT FROM receipts r
				WHERE r.order_id = e.order_id AND r.sent_at IS NOT NULL))`).Scan(&open)
		return err == nil && open == 0, err
	})
	if err != nil {
		r.fail("healing", fmt.Sprintf("%d charges, refunds, events or receipts are still under way: %v", open, err))
	}
	return err == nil
}

// askAgain sends every key once more, in its own meaning: that resolves what is unknown.
func (r *run) askAgain(ctx context.Context) {
	todo := make(chan *intent)
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			c := r.newClient(clients + i)
			defer c.http.CloseIdleConnections()
			for asked := range todo {
				c.insist(ctx, asked, 0, rand.New(rand.NewPCG(r.Seed, uint64(i)))) //nolint:gosec // see newClient
			}
		})
	}
	for _, asked := range r.world.intents {
		todo <- asked
	}
	close(todo)
	group.Wait()
}

// check runs what operators run.
func (r *run) check(ctx context.Context) error {
	report, err := check.Run(ctx, check.Sources{DB: r.servers.postgres.direct(),
		ProviderURL: "http://" + r.servers.psp.address, MailboxURL: "http://" + r.servers.mailbox.address})
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	for _, result := range report.Violated() {
		for _, found := range result.Violations.First {
			r.violate(result.Invariant, found.ID, fmt.Sprintf("%s: %s", result.Says, found.Says))
		}
	}
	return nil
}
