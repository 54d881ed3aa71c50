package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
)

const (
	// articleTTL is how long the naive twins remember, unless that is what they are about.
	articleTTL = 10 * time.Minute
	// shortTTL is over while the mail server is slow.
	shortTTL = 300 * time.Millisecond
)

// receiptKey is the key in Redis that a run is about.
type receiptKey struct {
	bench   *Bench
	redis   redis.UniversalClient // draws nothing
	orderID string
}

func (b *Bench) receiptKey(ctx context.Context, orderID string) (receiptKey, error) {
	client, err := b.redisClient(ctx)
	if err != nil {
		return receiptKey{}, err
	}
	k := receiptKey{b, client, orderID}
	b.OnEnd(func() { client.Del(context.WithoutCancel(ctx), k.name()) })
	return k, nil
}

func (k receiptKey) name() string { return k.bench.keys() + "receipt:" + k.orderID }

// ends waits until the key has expired.
func (k receiptKey) ends(ctx context.Context) error {
	err := Until(ctx, "the key to end", func(ctx context.Context) (bool, error) {
		n, err := k.redis.Exists(ctx, k.name()).Result()
		return n == 0, err
	})
	if err == nil {
		k.bench.Fails(ctx, RedisBox, "receipt:%s has expired", short(k.orderID))
	}
	return err
}

// endsSoon shortens what is left of the key's time, and waits for its end.
func (k receiptKey) endsSoon(ctx context.Context) error {
	if err := k.redis.PExpire(ctx, k.name(), shortTTL).Err(); err != nil {
		return fmt.Errorf("shorten the lease in Redis: %w", err)
	}
	return k.ends(ctx)
}

// flush takes the run's keys out of Redis.
func (k receiptKey) flush(ctx context.Context) error {
	gone, err := k.redis.Del(ctx, k.name()).Result()
	if err == nil && gone != 1 {
		err = errors.New("there was no key")
	}
	if err != nil {
		return fmt.Errorf("flush the run's keys: %w", err)
	}
	k.bench.Fails(ctx, RedisBox, "FLUSHALL (of this run's keys)")
	return nil
}

// naivePair are two nodes whose senders ask Redis alone. Both get the paid event of one order.
type naivePair struct {
	receiptKey
	a, b *worker
	ttl  time.Duration
}

func (b *Bench) naivePair(ctx context.Context, ttl time.Duration, redisDown bool) (*naivePair, error) {
	b.countMails()
	p := &naivePair{ttl: ttl}
	var errKey, errA, errB error
	p.receiptKey, errKey = b.receiptKey(ctx, uuid.NewString())
	p.a, errA = b.worker(ctx, NodeA, redisDown)
	p.b, errB = b.worker(ctx, NodeB, redisDown)
	return p, errors.Join(errKey, errA, errB)
}

func (p *naivePair) sender(w *worker) naiveSender {
	return naiveSender{redis: w.redis, mailer: w.mailer, keys: p.bench.keys(), buyer: p.bench.Email(), ttl: p.ttl}
}

// send has a node send the receipt in its way. Sent is false if it saw no need, or died.
func (p *naivePair) send(ctx context.Context, w *worker,
	way func(naiveSender, context.Context, string) (bool, error)) (sent bool, err error) {
	p.bench.Does(ctx, w.actor, "handles order.paid")
	finished, err := w.process(func() (err error) {
		sent, err = way(p.sender(w), ctx, p.orderID)
		return err
	})
	if finished && err == nil && !sent {
		p.bench.Does(ctx, w.actor, "the key exists: sends nothing")
	}
	return sent, err
}

// guardedPair are two nodes that send receipts as the shop does, and the event that each of them
// gets.
type guardedPair struct {
	receiptKey
	a, b  *worker
	event outbox.Event
}

func (b *Bench) guardedPair(ctx context.Context, redisDown bool) (*guardedPair, error) {
	b.countMails()
	event, err := b.paidEvent(ctx)
	if err != nil {
		return nil, err
	}
	p := &guardedPair{event: event}
	var errKey, errA, errB error
	p.receiptKey, errKey = b.receiptKey(ctx, event.OrderID.String())
	p.a, errA = b.guarded(ctx, NodeA, redisDown)
	p.b, errB = b.guarded(ctx, NodeB, redisDown)
	return p, errors.Join(errKey, errA, errB)
}

// paidEvent is the event of a paid order of this run.
func (b *Bench) paidEvent(ctx context.Context) (outbox.Event, error) {
	order, err := b.paidOrder(ctx)
	if err != nil {
		return outbox.Event{}, err
	}
	event := outbox.Event{Type: orders.EventPaid, OrderID: order.ID}
	err = b.Guarded.QueryRow(ctx, "SELECT id, created_at, payload FROM outbox WHERE order_id = $1 AND type = $2",
		order.ID, event.Type).
		Scan(&event.ID, &event.CreatedAt, &event.Data)
	if err != nil {
		return outbox.Event{}, fmt.Errorf("read the paid event: %w", err)
	}
	return event, nil
}

// rowLeaseEnds ends the lease of the receipt's row now.
func (p *guardedPair) rowLeaseEnds(ctx context.Context) error {
	changed, err := p.bench.Guarded.Exec(ctx,
		"UPDATE receipts SET lease_until = now() WHERE order_id = $1 AND sent_at IS NULL", p.event.OrderID)
	if err == nil && changed.RowsAffected() != 1 {
		err = errors.New("there is no such row")
	}
	if err != nil {
		return fmt.Errorf("shorten the lease of the row: %w", err)
	}
	p.bench.Does(ctx, Database, "the row's lease has ended")
	return nil
}

func (b *Bench) countMails() {
	b.Count("receipts", "mailbox", 1, func(ctx context.Context) (int, error) { return b.Mails(ctx, b.Email()) })
}

// bothSend has both nodes work at the same moment, with a mail server that does not answer before
// one of them has ended. It returns the one that did not send, if there is one.
func bothSend(a, b *worker, work func(*worker) (sent bool, err error)) (*worker, error) {
	type end struct {
		*worker
		sent bool
		err  error
	}
	start, ends := make(chan struct{}), make(chan end, 2)
	var releases []func()
	for _, w := range []*worker{a, b} {
		_, release := w.slowMail()
		releases = append(releases, release)
		go func() {
			<-start
			sent, err := work(w)
			ends <- end{w, sent, err}
		}()
	}
	close(start)
	first := <-ends
	for _, release := range releases {
		release()
	}
	second := <-ends
	err := errors.Join(first.err, second.err)
	switch {
	case !first.sent:
		return first.worker, err
	case !second.sent:
		return second.worker, err
	}
	return nil, err
}

// whileSlow has the worker send with a slow mail server, meanwhile do something else, and finish.
func (w *worker) whileSlow(ctx context.Context, send, meanwhile func() error) error {
	arrived, release := w.slowMail()
	defer release()
	sent := make(chan error, 1)
	go func() { sent <- send() }()
	select {
	case <-arrived:
	case err := <-sent:
		return errors.Join(errors.New("no mail was sent"), err)
	case <-ctx.Done():
	}
	err := meanwhile()
	w.bench.Does(ctx, Mailbox, "answers again")
	release()
	return errors.Join(err, <-sent)
}
