// Package broker is what the outbox needs of a message broker. Each broker has an adapter in a
// folder of its own below this one, and no type of its client library leaves it. See
// docs/decisions.md, D112.
package broker

import (
	"context"
	"errors"
	"time"
)

// ProbeType is the type of messages that only test the broker. No consumer gets them.
const ProbeType = "probe"

const (
	// HandleTimeout is how long a consumer may work on a delivery. The broker delivers the message
	// again when it has heard nothing of it for so long.
	HandleTimeout = 40 * time.Second
	// DeadAge is how long a dead letter can be retried.
	DeadAge = 90 * 24 * time.Hour
)

var (
	// ErrNotOpen reports a broker that answers and does not have what Open creates.
	ErrNotOpen = errors.New("broker: it is not set up for this shop yet")
	// ErrNotHeld reports a message that the broker does not hold, or no longer.
	ErrNotHeld = errors.New("broker: it does not hold the message")
	// ErrForgets reports a broker that stores a message again that it has. The error that wraps it
	// names the setting.
	ErrForgets = errors.New("broker: it does not recognize a message that is published again")
	// ErrRefused reports a message that was not stored, and will not be unless it changes.
	ErrRefused = errors.New("broker: it does not take the message")
	// ErrNoLetter reports that there is no such dead letter, because it was retried or is too old.
	ErrNoLetter = errors.New("broker: no such dead letter")
)

// Broker carries messages from the relay to the consumers, at least once. Its methods may be called
// at the same time.
type Broker interface {
	// Name is the broker's name in traces, such as "nats".
	Name() string
	// Memory describes how the broker recognizes a message that is published again. It is the same
	// for as long as the Broker is used.
	Memory() Memory
	// Open creates what the broker lacks for this shop, and changes what is configured otherwise.
	// Publish and Subscribe need it. Every node calls it when it starts, and again when the broker
	// may have lost something. It returns ErrForgets if duplicate detection is off at the broker.
	Open(ctx context.Context) error
	// Ready returns nil if the broker takes messages, and ErrNotOpen if it would after Open.
	Ready(ctx context.Context) error
	// Publish returns an Ack for each message, in the same order. A message that the broker does
	// not take keeps no other out, except where the broker compares numbers: there the messages are
	// sent strictly in order, and after the first failure no more, so that each one that is stored
	// comes before each that is not. When ctx ends, messages without an answer get its error.
	Publish(ctx context.Context, messages []Message) []Ack
	// Subscribe opens the durable subscription of a consumer to messages of one type. All nodes
	// share it.
	Subscribe(ctx context.Context, consumer, messageType string) (Subscription, error)
	// Lag returns how many messages the consumer has not acknowledged. They are not known before
	// Subscribe, nor if the broker does not count.
	Lag(ctx context.Context, consumer string) (messages int64, known bool, err error)
	// Letters are the messages that consumers gave up on.
	Letters() Letters
	// History reads what was published, delivered or not. It is nil if the broker keeps nothing
	// that it has delivered.
	History() History
	// Close ends the connection.
	Close()
}

// Compared is what a broker compares to recognize a message.
type Compared int

const (
	// IDs are compared for equality: in any order, each is stored once.
	IDs Compared = iota
	// Numbers are compared with the highest one so far. The broker drops a new message with a lower
	// number, too, so there must be one publisher at a time, which sends in the order of numbers.
	// The broker has to tell, because nothing else shows that a number is too low.
	Numbers
)

// Memory is what a broker remembers of the messages that it took.
type Memory struct {
	Compares Compared
	// Scope is where an ID or a number must be unique, in words: "the stream".
	Scope string
	// Window is how long the broker remembers a message, or 0 if it does not forget by time.
	Window time.Duration
	// Tells reports whether the Ack of a message that was recognized is a Duplicate. Otherwise it
	// looks like the first.
	Tells bool
	// MaxAge is how long the broker keeps a message at most.
	MaxAge time.Duration
}

// Message is a message to publish, or one that was.
type Message struct {
	// Type selects the consumers, as in "order.paid".
	Type string
	// ID is the same each time that the message is published. It begins with the kind of thing,
	// because the broker compares neither type nor data.
	ID string
	// Number is 0 unless the broker compares numbers.
	Number int64
	Data   []byte
	// Traceparent is the W3C trace context of the publisher, or empty.
	Traceparent string
}

// Ack is the broker's answer to a message: it is stored, or it is a Duplicate of one that is. A
// message whose Ack has an Err may be stored all the same. To publish it again is safe as far as
// the broker's Memory goes.
type Ack struct {
	// Seq is the number in the broker's History of the message that is stored. It is 0 without a
	// History.
	Seq       int64
	Duplicate bool
	Err       error
}

// Subscription delivers messages to one consumer.
type Subscription interface {
	// Consume hands deliveries to handle, each in a goroutine and at most so many at a time, until
	// ctx ends. Then it gives back what it has not handed over, and returns nil when the handlers
	// have returned. It returns an error if it has to be called again. A delivery that handle does
	// not settle comes again after HandleTimeout.
	Consume(ctx context.Context, atOnce int, handle func(context.Context, Delivery)) error
}

// Delivery is a message in the hands of a consumer, which settles it once.
type Delivery struct {
	Message
	Settlement
	Place Place
	// Count is how often the message was delivered, with this time. It may count deliveries that
	// never arrived.
	Count int
}

// Place identifies a message at the broker. It is the same at each delivery of the message, also
// after a Retry.
type Place struct {
	// Seq is the number in the broker's History, if it has one.
	Seq int64
	// At is when the message was stored. A broker that has lost its messages can begin again at
	// number 1.
	At time.Time
}

// Settlement ends a delivery. After an error, the delivery is not settled, and can be settled in
// another way.
type Settlement interface {
	// Ack ends the message for this consumer. It returns when the broker has confirmed that.
	Ack(ctx context.Context) error
	// Retry has the message delivered again after the pause.
	Retry(ctx context.Context, after time.Duration) error
	// Dead makes the message a dead letter, once, and ends it for this consumer.
	Dead(ctx context.Context, reason string) error
}

// Letters are the dead letters of all consumers. Before Open there are none.
type Letters interface {
	// List returns up to limit letters, newest first, and whether there are more. They come after
	// the one with the ID before, unless that is empty.
	List(ctx context.Context, before string, limit int) (letters []Letter, more bool, err error)
	// Retry publishes the message of a letter again, to all consumers of its type, and deletes the
	// letter. Concurrent retries of a letter publish its message once.
	Retry(ctx context.Context, id string) (Letter, error)
	// RetryAll retries the letters that there are now, oldest first, until ctx ends. It returns how
	// many it retried and whether some are left. A letter that cannot be retried stays.
	RetryAll(ctx context.Context) (retried int, more bool, err error)
	// Count returns how many letters there are. They are not known before Open, nor if the broker
	// does not count.
	Count(ctx context.Context) (letters int64, known bool, err error)
}

// Letter is a message that a consumer gave up on.
type Letter struct {
	// ID names the letter. It is safe in a URL's path.
	ID string
	// At is when the consumer gave up.
	At       time.Time
	Consumer string
	// Reason is the consumer's last error.
	Reason string
	// Place is where the consumer found the message. Its time may be missing, as may the message's
	// ID.
	Place Place
	Message
}

// History is what a broker can tell of the messages that it took, because it keeps them.
type History interface {
	// Held returns the numbers of the oldest and the newest message. If first is above last, the
	// broker holds none. Without the place for messages, it is ErrNotOpen.
	Held(ctx context.Context) (first, last int64, err error)
	// Read calls handle for each message that was stored since the time, oldest first.
	Read(ctx context.Context, since time.Time, handle func(Stored) error) error
	// At returns the message with a number, or ErrNotHeld.
	At(ctx context.Context, seq int64) (Stored, error)
	// Delivered returns the number of the newest message that the consumer was given, or 0.
	Delivered(ctx context.Context, consumer string) (int64, error)
}

// Stored is a message with its number in the History.
type Stored struct {
	Message
	Seq int64
}
