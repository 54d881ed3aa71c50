package servicebus

import (
	"context"
	"errors"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/go-amqp"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/tracing"
)

// Publish implements broker.Broker.
//
// The broker stores or refuses a batch as a whole. The messages of a refused batch are sent one by
// one, so that one of them does not keep the others out. After an unknown outcome nothing more is
// sent, so that later messages do not overtake these.
func (b *Broker) Publish(ctx context.Context, messages []broker.Message) []broker.Ack {
	acks := make([]broker.Ack, len(messages))
	_, err := b.sender.NewMessageBatch(ctx, nil) // connects
	if err != nil {
		err = fmt.Errorf("open topic %s: %v", b.settings.Topic, err) //nolint:errorlint // it refuses no message
	}
	for sent := 0; sent < len(messages); {
		rest, n := messages[sent:], len(messages)-sent
		if err == nil {
			n, err = b.publishBatch(ctx, rest)
		}
		if refused(err) {
			err = b.publishEach(ctx, rest[:n], acks[sent:])
		} else {
			for i := range n {
				acks[sent+i].Err = err
			}
		}
		sent += n
	}
	return acks
}

// publishBatch sends as many of the messages as fit into one batch, at least one, and returns how
// many.
func (b *Broker) publishBatch(ctx context.Context, messages []broker.Message) (int, error) {
	batch, err := b.sender.NewMessageBatch(ctx, nil)
	if err != nil {
		return len(messages), fmt.Errorf("open topic %s: %w", b.settings.Topic, err)
	}
	n := 0
	for ; n < len(messages) && err == nil; n++ {
		err = batch.AddMessage(encode(messages[n]), nil)
	}
	switch {
	case errors.Is(err, azservicebus.ErrMessageTooLarge) && n > 1:
		n-- // it is the first of the next batch
	case err != nil:
		return 1, fmt.Errorf("encode message %s: %w", messages[n-1].ID, err)
	}
	if err := b.sender.SendMessageBatch(ctx, batch, nil); err != nil {
		return n, fmt.Errorf("publish %d messages: %w", n, err)
	}
	return n, nil
}

// publishEach sends the messages one by one. It returns an error when an outcome is unknown.
func (b *Broker) publishEach(ctx context.Context, messages []broker.Message, acks []broker.Ack) (unknown error) {
	for i, m := range messages {
		err := unknown
		if err == nil {
			err = b.sender.SendMessage(ctx, encode(m), nil)
		}
		if err != nil {
			acks[i].Err = fmt.Errorf("publish message %s: %w", m.ID, err)
		}
		if err != nil && !refused(err) {
			unknown = err
		}
	}
	return unknown
}

// refused reports that the broker has answered that it does not take a message. After any other
// error it may have stored it, or may take it later.
func refused(err error) bool {
	answer, ok := errors.AsType[*amqp.Error](err)
	return errors.Is(err, azservicebus.ErrMessageTooLarge) || ok && answer.Condition != busy
}

const busy = amqp.ErrCond("com.microsoft:server-busy")

// contentType lets tools for Service Bus show an event.
var contentType = "application/json"

func encode(m broker.Message) *azservicebus.Message {
	message := &azservicebus.Message{MessageID: &m.ID, Subject: &m.Type, Body: m.Data, ContentType: &contentType}
	if m.Traceparent != "" {
		message.ApplicationProperties = map[string]any{tracing.Header: m.Traceparent}
	}
	return message
}

func decode(message *azservicebus.ReceivedMessage) broker.Message {
	m := broker.Message{ID: message.MessageID, Data: message.Body}
	if message.Subject != nil {
		m.Type = *message.Subject
	}
	m.Traceparent, _ = message.ApplicationProperties[tracing.Header].(string)
	return m
}
