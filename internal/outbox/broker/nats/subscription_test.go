package nats

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// A node that stops gives back what it has fetched while all its handlers are at work, and waits
// for them.
func TestConsumeGivesBackAtOnce(t *testing.T) {
	t.Parallel()
	js, b := open(t)
	const atOnce, many = 4, 20
	var messages []broker.Message
	for n := range many {
		messages = append(messages, broker.Message{Type: "a", ID: fmt.Sprint(n)})
	}
	for _, ack := range b.Publish(t.Context(), messages) {
		if ack.Err != nil {
			t.Fatal(ack.Err)
		}
	}
	consume := func(handle func(broker.Delivery)) (stop func(), ended <-chan error) {
		subscription, err := b.Subscribe(t.Context(), "reader", "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- subscription.Consume(ctx, atOnce, func(ctx context.Context, d broker.Delivery) {
				handle(d)
				if err := d.Ack(context.WithoutCancel(ctx)); err != nil {
					t.Error(err)
				}
			})
		}()
		return cancel, done
	}
	hold, held := make(chan struct{}), make(chan struct{}, many)
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	stop, ended := consume(func(broker.Delivery) {
		held <- struct{}{}
		<-hold
	})
	for range atOnce {
		<-held
	}
	shoptest.Eventually(t, patience, "the node has fetched more", func() bool {
		consumer, err := js.Consumer(t.Context(), EventStream, "reader")
		return err == nil && consumer.CachedInfo().NumAckPending > atOnce
	})
	stop()
	var others atomic.Int64
	stopOther, otherEnded := consume(func(broker.Delivery) { others.Add(1) })
	shoptest.Eventually(t, broker.HandleTimeout/2, "another node has the others", func() bool {
		return others.Load() == many-atOnce
	})
	select {
	case err := <-ended:
		t.Errorf("Consume returned while handlers were at work: %v", err)
	default:
	}
	release()
	stopOther()
	for _, ended := range []<-chan error{ended, otherEnded} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if n := int64(len(held)) + others.Load(); n != many-atOnce {
		t.Errorf("%d more messages were handed over, want %d", n, many-atOnce)
	}
}
