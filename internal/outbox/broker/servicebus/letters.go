package servicebus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

const (
	// page is how many dead letters are read at a time.
	page = 100
	// maxCounted is how many dead letters of a consumer Count counts at most, because it has to
	// read them.
	maxCounted = 1000
	// maxListed is how many dead letters of a consumer are read to list or to retry them. The rest,
	// which are the newest, come when these are gone.
	maxListed = 10_000
	// letterWait bounds the wait for a dead letter that another process may have locked.
	letterWait = 2 * time.Second
)

// Letters implements broker.Broker: they are the dead-letter queues of the subscriptions.
func (b *Broker) Letters() broker.Letters { return letters{b} }

type letters struct{ *Broker }

// peek reads up to n dead letters of a consumer with the number from or a higher one. It does not
// lock them.
func (b *Broker) peek(ctx context.Context, consumer string, from int64, n int) (
	[]*azservicebus.ReceivedMessage, error) {
	found, err := b.dead[consumer].PeekMessages(ctx, n, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from})
	if err != nil {
		return nil, fmt.Errorf("read the dead letters of subscription %s of topic %s: %w",
			consumer, b.settings.Topic, err)
	}
	return found, nil
}

// all reads the dead letters of a consumer in the order of their numbers, a page more than limit at
// most.
func (l letters) all(ctx context.Context, consumer string, limit int) (all []*azservicebus.ReceivedMessage, err error) {
	for from := int64(0); len(all) < limit; {
		found, err := l.peek(ctx, consumer, from, page)
		if err != nil || len(found) == 0 {
			return all, err
		}
		from = placeOf(found[len(found)-1]).Seq + 1
		all = append(all, slices.DeleteFunc(found, tooOld)...)
	}
	return all, nil
}

// tooOld reports a letter that must not be retried: consumers may have forgotten that they handled
// it. The broker keeps dead letters for ever.
func tooOld(message *azservicebus.ReceivedMessage) bool {
	return time.Since(diedAt(message)) > broker.DeadAge
}

// List implements broker.Letters. The broker lists the oldest first, so List reads them all, at
// most maxListed of each consumer.
func (l letters) List(ctx context.Context, before string, limit int) ([]broker.Letter, bool, error) {
	var after *letterID
	if before != "" {
		id, err := parseLetterID(before)
		if err != nil {
			return nil, false, err
		}
		after = &id
	}
	var ids []letterID
	found := map[letterID]*azservicebus.ReceivedMessage{}
	for _, consumer := range l.settings.Consumers {
		all, err := l.all(ctx, consumer, maxListed)
		if err != nil {
			return nil, false, err
		}
		for _, message := range all {
			if id := letterIDOf(consumer, message); after == nil || newestFirst(*after, id) < 0 {
				ids, found[id] = append(ids, id), message
			}
		}
	}
	slices.SortFunc(ids, newestFirst)
	var list []broker.Letter
	for _, id := range ids[:min(len(ids), limit)] {
		list = append(list, decodeLetter(id, found[id]))
	}
	return list, len(ids) > limit, nil
}

// Retry implements broker.Letters.
func (l letters) Retry(ctx context.Context, name string) (broker.Letter, error) {
	id, err := parseLetterID(name)
	if err != nil {
		return broker.Letter{}, err
	}
	letter, err := l.find(ctx, id)
	if err != nil {
		return broker.Letter{}, err
	}
	retried, err := l.retry(ctx, id.consumer, map[int64]bool{id.seq: true})
	if err == nil && retried == 0 {
		if _, gone := l.find(ctx, id); !errors.Is(gone, broker.ErrNoLetter) { // else a concurrent retry was faster
			err = errors.Join(gone, fmt.Errorf("dead letter %s is locked by another retry", name))
		}
	}
	return letter, err
}

// find reads a letter without locking it.
func (l letters) find(ctx context.Context, id letterID) (broker.Letter, error) {
	if !slices.Contains(l.settings.Consumers, id.consumer) {
		return broker.Letter{}, broker.ErrNoLetter
	}
	found, err := l.peek(ctx, id.consumer, id.seq, 1)
	if err != nil {
		return broker.Letter{}, err
	}
	if len(found) == 0 || letterIDOf(id.consumer, found[0]) != id || tooOld(found[0]) {
		return broker.Letter{}, broker.ErrNoLetter
	}
	return decodeLetter(id, found[0]), nil
}

// RetryAll implements broker.Letters.
func (l letters) RetryAll(ctx context.Context) (retried int, more bool, err error) {
	for _, consumer := range l.settings.Consumers {
		all, fault := l.all(ctx, consumer, maxListed)
		wanted := map[int64]bool{}
		for _, message := range all {
			wanted[placeOf(message).Seq] = true
		}
		n := 0
		if fault == nil {
			n, fault = l.retry(ctx, consumer, wanted)
		}
		retried, err = retried+n, errors.Join(err, fault)
		more = more || fault != nil || n < len(all) || len(all) >= maxListed
	}
	return retried, more, err
}

// retry publishes the letters of a consumer with the wanted numbers again and deletes them. It
// returns how many. AMQP cannot ask for a message by its number, so retry locks the letters from
// the oldest on until it has seen the wanted ones, and then gives the others back.
func (l letters) retry(ctx context.Context, consumer string, wanted map[int64]bool) (retried int, err error) {
	receiver, err := l.receiver(consumer, azservicebus.SubQueueDeadLetter)
	if err != nil {
		return 0, err
	}
	var others []*azservicebus.ReceivedMessage
	for left := len(wanted); left > 0 && ctx.Err() == nil; {
		messages, fault := l.receiveLetters(ctx, receiver)
		err = errors.Join(err, fault)
		if len(messages) == 0 {
			break
		}
		for _, message := range messages {
			seq := placeOf(message).Seq
			if !wanted[seq] {
				others = append(others, message)
				continue
			}
			wanted[seq] = false // if its lock expires, it is not retried twice
			left--
			if fault := l.retryOne(ctx, receiver, consumer, message); fault != nil {
				others, err = append(others, message), errors.Join(err, fault)
				continue
			}
			retried++
		}
	}
	l.closeReceiver(ctx, receiver) // or it gets what is given back
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	for _, message := range others {
		err = errors.Join(err, l.dead[consumer].AbandonMessage(ctx, message, nil))
	}
	return retried, err
}

// receiveLetters returns no messages if none came within letterWait.
func (l letters) receiveLetters(ctx context.Context, receiver *azservicebus.Receiver) (
	[]*azservicebus.ReceivedMessage, error) {
	wait, cancel := context.WithTimeout(ctx, letterWait)
	defer cancel()
	messages, err := receiver.ReceiveMessages(wait, page, nil)
	if err != nil && wait.Err() == nil || ctx.Err() != nil {
		return messages, fmt.Errorf("lock dead letters: %w", cmp.Or(ctx.Err(), err))
	}
	return messages, nil
}

// retryOne publishes the message under an id made of the letter's: if the letter is not deleted
// then, the next retry publishes nothing.
func (l letters) retryOne(ctx context.Context, receiver *azservicebus.Receiver, consumer string,
	message *azservicebus.ReceivedMessage) error {
	again := decode(message)
	again.ID = "retry." + letterIDOf(consumer, message).String()
	if err := l.sender.SendMessage(ctx, encode(again), nil); err != nil {
		return fmt.Errorf("publish the event of dead letter %s again: %w", letterIDOf(consumer, message), err)
	}
	if err := receiver.CompleteMessage(ctx, message, nil); err != nil {
		return fmt.Errorf("delete dead letter %s: %w", letterIDOf(consumer, message), err)
	}
	return nil
}

// Count implements broker.Letters. It does not count beyond maxCounted for a consumer.
func (l letters) Count(ctx context.Context) (count int64, known bool, err error) {
	for _, consumer := range l.settings.Consumers {
		all, err := l.all(ctx, consumer, maxCounted)
		if err != nil {
			return 0, false, err
		}
		count += int64(len(all))
	}
	return count, true, nil
}

// letterID is a consumer, and the number and time of one of its dead letters.
type letterID struct {
	consumer  string
	seq, nano int64
}

func letterIDOf(consumer string, message *azservicebus.ReceivedMessage) letterID {
	return letterID{consumer, placeOf(message).Seq, diedAt(message).UnixNano()}
}

func (id letterID) String() string { return fmt.Sprintf("%s.%d.%d", id.consumer, id.seq, id.nano) }

func parseLetterID(text string) (id letterID, err error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return id, fmt.Errorf("servicebus: %q names no dead letter", text)
	}
	seq, err := strconv.ParseInt(parts[1], 10, 64)
	nano, wrong := strconv.ParseInt(parts[2], 10, 64)
	if err := errors.Join(err, wrong); err != nil {
		return id, fmt.Errorf("servicebus: %q names no dead letter: %w", text, err)
	}
	return letterID{parts[0], seq, nano}, nil
}

func newestFirst(a, b letterID) int {
	return cmp.Or(cmp.Compare(b.nano, a.nano), strings.Compare(a.consumer, b.consumer), cmp.Compare(b.seq, a.seq))
}

// diedAt is when the consumer gave up, or for a letter that the broker made, when it stored the
// message.
func diedAt(message *azservicebus.ReceivedMessage) time.Time {
	text, _ := message.ApplicationProperties[deadAtProperty].(string)
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at
	}
	return placeOf(message).At
}

func decodeLetter(id letterID, message *azservicebus.ReceivedMessage) broker.Letter {
	letter := broker.Letter{ID: id.String(), At: diedAt(message), Consumer: id.consumer, Place: placeOf(message),
		Message: decode(message)}
	// A letter that the broker made lacks the number and the description.
	if text, ok := message.ApplicationProperties[seqProperty].(string); ok {
		letter.Place.Seq, _ = strconv.ParseInt(text, 10, 64)
	}
	for _, reason := range []*string{message.DeadLetterReason, message.DeadLetterErrorDescription} {
		if reason != nil && *reason != "" {
			letter.Reason = *reason
		}
	}
	return letter
}
