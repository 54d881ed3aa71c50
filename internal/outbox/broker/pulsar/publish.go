package pulsar

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/apache/pulsar-client-go/pulsar"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/tracing"
)

const (
	// pipeline is how many messages are sent before the first is acknowledged. The client sends so
	// many without waiting.
	pipeline = 1000
	// alone is the size from which on a message is sent without others behind it: if the broker
	// finds it too large, none of them may have passed it.
	alone = 64 << 10
	// largest is just below the default of the broker's maxMessageSize, with the properties.
	largest = 5<<20 - 8<<10
)

// Properties of a message.
const (
	typeProperty = "type"
	idProperty   = "id"
)

// errNotSent reports a message behind one that failed.
var errNotSent = errors.New("not sent, because a message before it failed")

// publisher sends the relay's messages. The broker lets one client at a time connect under its
// name.
type publisher struct {
	*Broker
	mu       sync.Mutex
	producer pulsar.Producer
	// closed is closed when the producer before has left.
	closed chan struct{}
}

// Publish implements broker.Broker.
//
// Messages with numbers are sent in order, many at a time and never in one of the client's batches:
// the broker drops a batch as a whole. After a failure the producer is closed, so that its client
// sends nothing more on its own. The client's send time-out is off, because a message that it gives
// up could be overtaken by those behind it.
func (b *Broker) Publish(ctx context.Context, messages []broker.Message) []broker.Ack {
	p := &b.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	acks := make([]broker.Ack, len(messages))
	var failure error
	for sent := 0; sent < len(messages); {
		n := runOf(messages[sent:])
		if failure == nil {
			failure = p.send(ctx, messages[sent:sent+n], acks[sent:])
		} else {
			for i := range n {
				acks[sent+i].Err = errNotSent
			}
		}
		sent += n
	}
	return acks
}

// runOf returns how many of the messages can be sent without waiting, at least one.
func runOf(messages []broker.Message) int {
	for n, m := range messages {
		switch {
		case n == pipeline:
			return n
		case len(m.Data) >= alone:
			return max(n, 1)
		}
	}
	return len(messages)
}

// send sends the messages and waits for the acknowledgements. It returns the first failure.
func (p *publisher) send(ctx context.Context, messages []broker.Message, acks []broker.Ack) error {
	for i := range messages {
		acks[i].Err = errNotSent
	}
	if len(messages[0].Data) > largest {
		acks[0].Err = fmt.Errorf("%w: it has %d bytes", broker.ErrRefused, len(messages[0].Data))
		return acks[0].Err
	}
	producer, err := p.connected(ctx)
	if err != nil {
		acks[0].Err = err
		return err
	}
	type receipt struct {
		n   int
		id  pulsar.MessageID
		err error
	}
	receipts := make(chan receipt, len(messages))
	for n, m := range messages {
		message := encode(m)
		message.SequenceID = &m.Number
		// With ctx, the client would drop a message whose context ends, and send those behind it.
		producer.SendAsync(context.WithoutCancel(ctx), message,
			func(id pulsar.MessageID, _ *pulsar.ProducerMessage, err error) { receipts <- receipt{n, id, err} })
	}
	for range messages {
		var r receipt
		select {
		case r = <-receipts:
		case <-ctx.Done():
			r.err = ctx.Err()
			for acks[r.n].Err == nil { // the first that is not acknowledged
				r.n++
			}
		}
		if acks[r.n] = (broker.Ack{Err: refused(r.err)}); r.err != nil {
			p.leave()
			return acks[r.n].Err
		}
		acks[r.n].Duplicate = isDuplicate(r.id)
	}
	return nil
}

// refused marks an error that says that the message is too large.
func refused(err error) error {
	if errors.Is(err, pulsar.ErrMessageTooLarge) {
		return fmt.Errorf("%w: %w", broker.ErrRefused, err)
	}
	return err
}

// isDuplicate reports the receipt of a message that was dropped.
func isDuplicate(id pulsar.MessageID) bool { return id.LedgerID() == -1 && id.EntryID() == -1 }

// connected returns the producer. It waits until the one before has left.
func (p *publisher) connected(ctx context.Context) (pulsar.Producer, error) {
	if p.producer != nil {
		return p.producer, nil
	}
	if p.closed != nil {
		select {
		case <-p.closed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	producer, err := p.newProducer(p.events, p.settings.Publisher)
	if err != nil {
		return nil, err
	}
	p.producer = producer
	return producer, nil
}

// leave closes the producer, which fails what it has not sent.
func (p *publisher) leave() {
	producer, closed := p.producer, make(chan struct{})
	p.producer, p.closed = nil, closed
	go func() {
		defer close(closed)
		producer.Close()
	}()
}

func (b *Broker) newProducer(topic, name string) (pulsar.Producer, error) {
	producer, err := b.client.CreateProducer(pulsar.ProducerOptions{Topic: topic, Name: name, DisableBatching: true,
		SendTimeout: -1, MaxPendingMessages: pipeline})
	if err != nil {
		return nil, fmt.Errorf("become producer %s of topic %s: %w", name, topic, err)
	}
	return producer, nil
}

// publishOnce publishes the only message of a producer's name. The broker drops each message of
// that name after the first.
func (b *Broker) publishOnce(ctx context.Context, topic, name string, message *pulsar.ProducerMessage,
) (duplicate bool, err error) {
	producer, err := b.newProducer(topic, name)
	if err != nil {
		return false, err
	}
	defer producer.Close()
	message.SequenceID = new(int64)
	*message.SequenceID = 1
	id, err := producer.Send(ctx, message)
	if err != nil {
		return false, fmt.Errorf("publish as producer %s to topic %s: %w", name, topic, err)
	}
	return isDuplicate(id), nil
}

func encode(m broker.Message) *pulsar.ProducerMessage {
	message := &pulsar.ProducerMessage{Payload: m.Data, Properties: map[string]string{typeProperty: m.Type}}
	if m.ID != "" {
		message.Properties[idProperty] = m.ID
	}
	if m.Traceparent != "" {
		message.Properties[tracing.Header] = m.Traceparent
	}
	return message
}

func decode(message pulsar.Message) broker.Message {
	properties := message.Properties()
	return broker.Message{Type: properties[typeProperty], ID: properties[idProperty], Data: message.Payload(),
		Traceparent: properties[tracing.Header]}
}
