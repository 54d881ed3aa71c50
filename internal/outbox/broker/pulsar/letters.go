package pulsar

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

// Properties of a dead letter.
const (
	consumerProperty = "consumer"
	reasonProperty   = "reason"
	seqProperty      = "seq"
	storedProperty   = "stored"
	// goneProperty marks a message that only ends the letter with its key.
	goneProperty = "gone"
)

// letters are the dead letters: a topic to which a letter is written when a consumer gives up, and
// once more when it is retried. Each node reads the topic from its beginning and remembers the
// letters that were not retried.
type letters struct {
	*Broker
	mu     sync.Mutex
	reader pulsar.Reader
	last   pulsar.MessageID
	// order has the ids of all letters, oldest first, and index their places in it.
	order []string
	index map[string]int
	live  map[string]broker.Letter
}

// add makes a dead letter of a consumer's message, once.
func (l *letters) add(ctx context.Context, consumer string, message pulsar.Message, reason string) error {
	place := placeOf(message)
	id := consumer + "-" + formatPlace(place)
	letter := encode(decode(message))
	letter.Key = id
	letter.Properties[consumerProperty], letter.Properties[reasonProperty] = consumer, reason
	letter.Properties[seqProperty] = strconv.FormatInt(place.Seq, 10)
	letter.Properties[storedProperty] = place.At.UTC().Format(time.RFC3339Nano)
	if _, err := l.publishOnce(ctx, l.dead, "dead-"+id, letter); err != nil {
		return fmt.Errorf("publish the dead letter: %w", err)
	}
	return nil
}

// catchUp reads what the topic has and this node has not read yet.
func (l *letters) catchUp(ctx context.Context) error {
	if l.reader == nil {
		reader, err := l.client.CreateReader(pulsar.ReaderOptions{Topic: l.dead,
			StartMessageID: pulsar.EarliestMessageID()})
		if err != nil {
			return fmt.Errorf("read the dead letters: %w", err)
		}
		l.reader, l.index, l.live = reader, map[string]int{}, map[string]broker.Letter{}
	}
	end, err := l.reader.GetLastMessageID()
	if err != nil {
		return fmt.Errorf("look for the newest dead letter: %w", err)
	}
	for before(l.last, end) {
		message, err := l.reader.Next(ctx)
		if err != nil {
			return fmt.Errorf("read the dead letters: %w", err)
		}
		l.last = message.ID()
		l.apply(message)
	}
	return nil
}

// before reports whether the message with the id end is not read yet. The id of an empty topic has
// no entry.
func before(last, end pulsar.MessageID) bool {
	switch {
	case end.EntryID() < 0:
		return false
	case last == nil:
		return true
	case last.LedgerID() != end.LedgerID():
		return last.LedgerID() < end.LedgerID()
	}
	return last.EntryID() < end.EntryID()
}

func (l *letters) apply(message pulsar.Message) {
	id, properties := message.Key(), message.Properties()
	switch {
	case id == "": // a probe
		return
	case properties[goneProperty] != "":
		delete(l.live, id)
		return
	}
	if _, known := l.index[id]; known {
		return
	}
	l.index[id] = len(l.order)
	l.order = append(l.order, id)
	letter := broker.Letter{ID: id, At: message.PublishTime(), Consumer: properties[consumerProperty],
		Reason: properties[reasonProperty], Message: decode(message)}
	// A field that cannot be decoded stays zero, so that operators can see the letter.
	letter.Place.Seq, _ = strconv.ParseInt(properties[seqProperty], 10, 64)
	letter.Place.At, _ = time.Parse(time.RFC3339Nano, properties[storedProperty])
	l.live[id] = letter
}

// found returns a letter that can be retried.
func (l *letters) found(id string) (broker.Letter, bool) {
	letter, ok := l.live[id]
	return letter, ok && time.Since(letter.At) < broker.DeadAge
}

// List implements broker.Letters.
func (l *letters) List(ctx context.Context, before string, limit int) (list []broker.Letter, more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(ctx); err != nil {
		return nil, false, err
	}
	end, ok := l.index[before]
	if !ok {
		end = len(l.order)
	}
	for i := end - 1; i >= 0; i-- {
		letter, ok := l.found(l.order[i])
		switch {
		case !ok:
			continue
		case len(list) == limit:
			return list, true, nil
		}
		list = append(list, letter)
	}
	return list, false, nil
}

// Retry implements broker.Letters.
func (l *letters) Retry(ctx context.Context, id string) (broker.Letter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(ctx); err != nil {
		return broker.Letter{}, err
	}
	letter, ok := l.found(id)
	if !ok {
		return letter, broker.ErrNoLetter
	}
	return letter, l.retry(ctx, letter)
}

// retry publishes the message under a producer's name made of the letter's id, so that concurrent
// retries publish it once.
func (l *letters) retry(ctx context.Context, letter broker.Letter) error {
	if _, err := l.publishOnce(ctx, l.events, "retry-"+letter.ID, encode(letter.Message)); err != nil {
		return fmt.Errorf("publish the event of dead letter %s again: %w", letter.ID, err)
	}
	gone := &pulsar.ProducerMessage{Key: letter.ID, Properties: map[string]string{goneProperty: "retried"}}
	if _, err := l.publishOnce(ctx, l.dead, "gone-"+letter.ID, gone); err != nil {
		return fmt.Errorf("end dead letter %s: %w", letter.ID, err)
	}
	delete(l.live, letter.ID)
	return nil
}

// RetryAll implements broker.Letters.
func (l *letters) RetryAll(ctx context.Context) (retried int, more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(ctx); err != nil {
		return 0, true, err
	}
	var failures error
	for _, id := range l.order {
		letter, ok := l.found(id)
		if !ok {
			continue
		}
		if ctx.Err() != nil {
			return retried, true, failures
		}
		if err := l.retry(ctx, letter); err != nil {
			failures = err
			continue
		}
		retried++
	}
	return retried, failures != nil, failures
}

// Count implements broker.Letters.
func (l *letters) Count(ctx context.Context) (count int64, known bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(ctx); err != nil {
		return 0, false, err
	}
	for id := range l.live {
		if _, ok := l.found(id); ok {
			count++
		}
	}
	return count, true, nil
}
