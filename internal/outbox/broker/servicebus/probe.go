package servicebus

import (
	"context"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

const (
	// probeTimeout bounds a probe. The shortest window that Azure allows is 20 s.
	probeTimeout = 10 * time.Second
	// lookPause is the pause between two looks for a probe, which reaches the subscription after
	// the broker has confirmed it.
	lookPause = 50 * time.Millisecond
	// tidyWait bounds the wait for probes to delete, which other nodes may have locked.
	tidyWait = time.Second
)

// deduplicates returns nil once the broker has dropped the second copy of a probe. AMQP cannot ask
// whether duplicate detection is on, and the broker confirms a copy that it drops. So the probe is
// published twice, then an end, and what arrives before the end is counted.
func (b *Broker) deduplicates(ctx context.Context) error {
	b.probe.Lock()
	defer b.probe.Unlock()
	if b.probe.passed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	receiver, err := b.receiver(broker.ProbeType, 0)
	if err != nil {
		return err
	}
	defer b.closeReceiver(ctx, receiver)
	began := time.Now()
	id := "probe." + uuid.NewString()
	end := id + ".end"
	for _, each := range []string{id, id, end} {
		probe := encode(broker.Message{Type: broker.ProbeType, ID: each})
		if err := b.sender.SendMessage(ctx, probe, nil); err != nil {
			return fmt.Errorf("publish a probe: %w", err)
		}
	}
	arrived, ended, err := countUntil(ctx, receiver, id, end)
	if err != nil {
		return fmt.Errorf("look for probes in subscription %s of topic %s, which deploy/azure creates: %w",
			broker.ProbeType, b.settings.Topic, err)
	}
	tidy(ctx, receiver, map[string]bool{id: true, end: true}, ended.Add(-probeTimeout))
	switch took := time.Since(began); {
	case arrived == 1:
		b.probe.passed = true
		return nil
	case arrived == 0 || took >= b.settings.Window:
		return fmt.Errorf("a probe of topic %s shows nothing: %d copies arrived in %s", b.settings.Topic, arrived, took)
	}
	return fmt.Errorf("%w: topic %s was created without requiresDuplicateDetection, which cannot be switched on "+
		"later; create it again from deploy/azure, as docs/brokers.md explains", broker.ErrForgets, b.settings.Topic)
}

// countUntil returns how many messages with the id are in the receiver's subscription before the
// end, and when the broker stored the end. It does not lock them, so that nodes that start together
// see each its own probe.
func countUntil(ctx context.Context, receiver *azservicebus.Receiver, id, end string) (
	n int, ended time.Time, err error) {
	for from := int64(0); ; {
		found, err := receiver.PeekMessages(ctx, page, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from})
		if err != nil {
			return 0, ended, err
		}
		for _, message := range found {
			from = placeOf(message).Seq + 1
			switch message.MessageID {
			case id:
				n++
			case end:
				return n, placeOf(message).At, nil
			}
		}
		if len(found) > 0 {
			continue
		}
		select {
		case <-time.After(lookPause):
		case <-ctx.Done():
			return 0, ended, ctx.Err()
		}
	}
}

// tidy deletes the node's own probes and those of nodes that have died, which were stored before
// the time. The probes of others stay until their nodes have counted them. What tidy cannot delete
// expires.
func tidy(ctx context.Context, receiver *azservicebus.Receiver, own map[string]bool, before time.Time) {
	wait, cancel := context.WithTimeout(ctx, tidyWait)
	defer cancel()
	messages, _ := receiver.ReceiveMessages(wait, page, nil)
	for _, message := range messages {
		if own[message.MessageID] || placeOf(message).At.Before(before) {
			_ = receiver.CompleteMessage(ctx, message, nil)
		}
	}
}
