// Package brokers asks message brokers what they do with a message that comes again: stored a
// second time, dropped, or dropped and told.
package brokers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

// answerTimeout bounds one question, without the wait for a window.
const answerTimeout = 30 * time.Second

// Target is a broker that can be asked. What is published to it has one type, and one consumer.
type Target struct {
	// Broker names the program and its version, as in "NATS JetStream 2.12.2".
	Broker         string
	Type, Consumer string
	// Connect returns an open client that publishes under a name, where publishers have names. With
	// an error it may return a client to close.
	Connect func(ctx context.Context, publisher string) (broker.Broker, error)
	// PassWindow returns when the broker has forgotten what was published before. It is nil if time
	// does not make it forget.
	PassWindow func(ctx context.Context) error
	// Restart kills the broker and starts it again. It is nil where that cannot be done.
	Restart func(ctx context.Context) error
	// Pool is a database with the shop's tables, for its relays. It may be nil.
	Pool *pgxpool.Pool
}

// Answer is what became of the messages of a question.
type Answer struct {
	// Stored is how many messages the broker delivered of those that were Sent, Events how many
	// different ones there were.
	Stored int `json:"stored"`
	Sent   int `json:"sent"`
	Events int `json:"events"`
	// Told is whether the broker called one of them a duplicate.
	Told bool `json:"told"`
	// NotAsked is why there is no answer.
	NotAsked string `json:"not_asked,omitempty"`
}

// Verdict is what a shop would notice that has no other guard: "holds", "duplicates", "loses", or
// "none" without an answer.
func (a Answer) Verdict() string {
	switch {
	case a.NotAsked != "":
		return "none"
	case a.Stored < a.Events:
		return "loses"
	case a.Stored > a.Events:
		return "duplicates"
	}
	return "holds"
}

// String says it in a few words.
func (a Answer) String() string {
	told := ", not told"
	if a.Told {
		told = ", told"
	}
	switch {
	case a.NotAsked != "":
		return a.NotAsked
	case a.Stored < a.Events:
		return fmt.Sprintf("%d of %d new ones lost%s", a.Events-a.Stored, a.Events, told)
	case a.Stored > a.Events && a.Events > 1:
		return fmt.Sprintf("%d of %d stored twice", a.Stored-a.Events, a.Events)
	case a.Stored > a.Events:
		return "stored again"
	case a.Sent > a.Events:
		return "dropped" + told
	}
	return "all stored"
}

// Question is a row of the table.
type Question struct {
	ID    string
	Title string
	ask   func(ctx context.Context, s *session) error
}

// Questions are the rows of the table, in its order.
func Questions() []Question {
	return []Question{
		{"at-once", "the same message again, at once", again(nil)},
		{"after-window", "the same, after the window", again((*session).passWindow)},
		{"after-restart", "the same, after the broker was killed", again((*session).restart)},
		{"other-publisher", "the same, from a publisher of another name", otherPublisher},
		{"other-body", "another body under the same id and number", otherBody},
		{"lower-number", "a new message with a lower number than the last", lowerNumber},
		{"naive-relays", "ten events by two naive relays, with an id for each try and numbers given at insert",
			naiveRelays},
		{"our-relays", "fifty events by two of the shop's relays at once", ourRelays},
	}
}

// notAskedError ends a question that does not fit the broker. Its text is the answer.
type notAskedError string

func (e notAskedError) Error() string { return string(e) }

// Ask asks all questions, one after another, and reports each answer.
func Ask(ctx context.Context, target Target, answered func(Question, Answer)) error {
	for _, q := range Questions() {
		answer, err := ask(ctx, target, q)
		if err != nil {
			return fmt.Errorf("ask %s: %s: %w", target.Broker, q.Title, err)
		}
		answered(q, answer)
	}
	return nil
}

// session is the asking of one question.
type session struct {
	Target
	client  broker.Broker
	numbers bool
	run     string
	answer  Answer
}

// base is where the numbers of a question begin. They grow from one question to the next.
func base() int64 { return time.Now().UnixMicro() }

func ask(ctx context.Context, target Target, q Question) (Answer, error) {
	client, err := target.connect(ctx, "shop")
	if err != nil {
		return Answer{}, err
	}
	defer client.Close()
	s := &session{Target: target, client: client, numbers: client.Memory().Compares == broker.Numbers, run: rand.Text()}
	err = q.ask(ctx, s)
	if why, ok := errors.AsType[notAskedError](err); ok {
		return Answer{NotAsked: string(why)}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s.answer.Stored, err = s.stored(ctx)
	return s.answer, err
}

// message is an event of this question. Where the broker compares ids it has no number.
func (s *session) message(id string, number int64) broker.Message {
	m := broker.Message{Type: s.Type, ID: "lab." + s.run + "." + id,
		Data: fmt.Appendf(nil, `{"run":%q,"id":%q}`, s.run, id)}
	if s.numbers {
		m.Number = number
	}
	return m
}

// publish publishes messages one after the other, until each is acknowledged.
func (s *session) publish(ctx context.Context, client broker.Broker, messages ...broker.Message) error {
	for _, m := range messages {
		ack, err := publishUntilTaken(ctx, client, m)
		if err != nil {
			return err
		}
		s.answer.Sent++
		s.answer.Told = s.answer.Told || ack.Duplicate
	}
	return nil
}

func publishUntilTaken(ctx context.Context, client broker.Broker, m broker.Message) (ack broker.Ack, err error) {
	err = untilTaken(ctx, func(ctx context.Context) error {
		try, end := context.WithTimeout(ctx, answerTimeout/6)
		defer end()
		ack = client.Publish(try, []broker.Message{m})[0]
		return ack.Err
	})
	if err != nil {
		return ack, fmt.Errorf("publish: %w", err)
	}
	return ack, nil
}

// connect connects as Connect does, and tries again while the broker is starting.
func (t Target) connect(ctx context.Context, publisher string) (client broker.Broker, err error) {
	err = untilTaken(ctx, func(ctx context.Context) error {
		client, err = t.Connect(ctx, publisher)
		if err != nil && client != nil {
			client.Close()
		}
		return err
	})
	return client, err
}

// untilTaken tries until the broker takes it. A broker that was killed may be starting, and Pulsar
// says for a while that it has nowhere to store.
func untilTaken(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil || errors.Is(err, broker.ErrForgets) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// stored counts what the broker delivers of this question, up to a last message.
func (s *session) stored(ctx context.Context) (int, error) {
	last := s.message("end", base())
	if _, err := publishUntilTaken(ctx, s.client, last); err != nil {
		return 0, err
	}
	subscription, err := s.client.Subscribe(ctx, s.Consumer, s.Type)
	if err != nil {
		return 0, fmt.Errorf("subscribe: %w", err)
	}
	seen := map[string]bool{}
	wait, enough := context.WithCancel(ctx)
	defer enough()
	var failure error
	for wait.Err() == nil {
		err := subscription.Consume(wait, 1, func(ctx context.Context, d broker.Delivery) {
			settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
			defer cancel()
			if failure = d.Ack(settle); failure != nil {
				return // it comes again
			}
			if isOf(d.Data, s.run) && d.ID != last.ID {
				seen[fmt.Sprint(d.Place)] = true
			}
			if d.ID == last.ID {
				enough()
			}
		})
		if err != nil && wait.Err() == nil {
			failure = err
		}
	}
	if ctx.Err() != nil {
		return 0, errors.Join(fmt.Errorf("the last message did not arrive: %w", ctx.Err()), failure)
	}
	return len(seen), nil
}
