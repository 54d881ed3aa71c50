// Package pulsar is the adapter for Apache Pulsar: a topic of events with a subscription for each
// consumer, and a topic of dead letters. It is a module of its own, so that the shop is built
// without Pulsar's client. See docs/brokers.md.
//
// Pulsar compares the sequence number of a message with the highest one of its producer's name on
// the topic. It confirms a message with a number that is not higher, with the message id -1:-1, and
// drops it.
package pulsar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"
	pulsarlog "github.com/apache/pulsar-client-go/pulsar/log"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

// operationTimeout bounds what the client asks the broker, except for messages, for which the
// context decides.
const operationTimeout = 5 * time.Second

// remembered is how long the broker remembers the numbers of a producer's name after the producer
// has left, by default. See brokerDeduplicationProducerInactivityTimeoutMinutes.
const remembered = 6 * time.Hour

// Schemes begin the addresses of Pulsar.
func Schemes() []string { return []string{"pulsar", "pulsar+ssl"} }

// Settings are what the shop needs of the broker.
type Settings struct {
	// Cell is part of the topics' names.
	Cell string
	// Consumers are the names of the subscriptions, which Open creates.
	Consumers []string
	// MaxAge is how long the outbox expects to find an event at the broker. Pulsar keeps it until
	// every subscription has acknowledged it, or for the namespace's message TTL.
	MaxAge time.Duration
	// Publisher is the producer's name for Publish, under which the broker compares the numbers. It
	// is the same for all nodes, "relay" by default.
	Publisher string
}

// Broker is a client of Pulsar.
type Broker struct {
	client   pulsar.Client
	settings Settings
	log      *slog.Logger
	// events and dead are the topics.
	events, dead string
	publisher    publisher
	letters      letters
	probe        struct {
		sync.Mutex
		passed bool
	}
}

var _ broker.Broker = (*Broker)(nil)

// errAddress does not wrap its cause, which can contain the token.
var errAddress = errors.New("not an address such as pulsar://host:6650/tenant/namespace or " +
	"pulsar+ssl://:token@host:6651/tenant/namespace, with the token percent-encoded")

// Connect returns the broker at the address, which may have several hosts. A password is a token.
// The path is the namespace, public/default by default. Connect does not wait for the broker.
func Connect(address string, settings Settings, log *slog.Logger) (*Broker, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.RawQuery != "" {
		return nil, errAddress
	}
	namespace := strings.Trim(u.Path, "/")
	if namespace == "" {
		namespace = "public/default"
	}
	if tenant, rest, ok := strings.Cut(namespace, "/"); !ok || tenant == "" || strings.Contains(rest, "/") {
		return nil, errAddress
	}
	options := pulsar.ClientOptions{
		URL: u.Scheme + "://" + u.Host, OperationTimeout: operationTimeout, ConnectionTimeout: operationTimeout,
		TLSValidateHostname: true, MemoryLimitBytes: -1, Logger: pulsarlog.NewLoggerWithSlog(log),
		MetricsRegisterer: prometheus.NewRegistry(), // nobody asks for the client's own metrics
	}
	if token, ok := u.User.Password(); ok {
		options.Authentication = pulsar.NewAuthenticationToken(token)
	}
	client, err := pulsar.NewClient(options)
	if err != nil {
		return nil, errAddress
	}
	topics := "persistent://" + namespace + "/shop-"
	if settings.Cell != "" {
		topics += settings.Cell + "-"
	}
	settings.Publisher = cmp.Or(settings.Publisher, "relay")
	b := &Broker{client: client, settings: settings, log: log, events: topics + "events", dead: topics + "dead"}
	b.publisher.Broker, b.letters.Broker = b, b
	return b, nil
}

// Close implements broker.Broker.
func (b *Broker) Close() { b.client.Close() }

// Name implements broker.Broker.
func (b *Broker) Name() string { return "pulsar" }

// Memory implements broker.Broker.
func (b *Broker) Memory() broker.Memory {
	return broker.Memory{Compares: broker.Numbers, Scope: "the producer's name on the topic", Window: remembered,
		Tells: true, MaxAge: b.settings.MaxAge}
}

// Open implements broker.Broker. It publishes a probe twice, under a producer's name of its own,
// and creates the subscriptions.
func (b *Broker) Open(ctx context.Context) error {
	if err := b.deduplicates(ctx); err != nil {
		return err
	}
	for _, consumer := range b.settings.Consumers {
		if err := b.createSubscription(b.events, consumer); err != nil {
			return err
		}
	}
	// Without a subscription, the broker deletes what it has.
	return b.createSubscription(b.dead, "letters")
}

// deduplicates returns nil if the broker has recognized a message that was published twice.
func (b *Broker) deduplicates(ctx context.Context) error {
	b.probe.Lock()
	defer b.probe.Unlock()
	if b.probe.passed {
		return nil
	}
	for _, topic := range []string{b.events, b.dead} {
		partitions, err := b.client.TopicPartitions(topic)
		if err != nil {
			return fmt.Errorf("look up topic %s: %w", topic, err)
		}
		if len(partitions) > 1 {
			return fmt.Errorf("topic %s has %d partitions, and must have none: each would compare numbers alone",
				topic, len(partitions))
		}
		name := "probe-" + uuid.NewString()
		for _, want := range []bool{false, true} {
			duplicate, err := b.publishOnce(ctx, topic, name, encode(broker.Message{Type: broker.ProbeType}))
			if err != nil {
				return fmt.Errorf("publish a probe: %w", err)
			}
			if want && !duplicate {
				return fmt.Errorf("%w: set brokerDeduplicationEnabled=true in broker.conf, or run `pulsar-admin "+
					"namespaces set-deduplication --enable` for the namespace of %s", broker.ErrForgets, topic)
			}
		}
	}
	b.probe.passed = true
	return nil
}

func (b *Broker) createSubscription(topic, name string) error {
	consumer, err := b.client.Subscribe(pulsar.ConsumerOptions{Topic: topic, SubscriptionName: name,
		Type: pulsar.Shared, SubscriptionInitialPosition: pulsar.SubscriptionPositionEarliest, ReceiverQueueSize: 1})
	if err != nil {
		return fmt.Errorf("create subscription %s of topic %s: %w", name, topic, err)
	}
	consumer.Close()
	return nil
}

// Ready implements broker.Broker.
func (b *Broker) Ready(ctx context.Context) error {
	_, err := within(ctx, func() ([]string, error) { return b.client.TopicPartitions(b.events) })
	return err
}

// within returns the result of a call of the client that takes no context. The call goes on when
// ctx ends, at most for operationTimeout.
func within[T any](ctx context.Context, call func() (T, error)) (result T, err error) {
	done := make(chan struct{})
	var answer T
	var failure error
	go func() {
		defer close(done)
		answer, failure = call()
	}()
	select {
	case <-done:
		return answer, failure
	case <-ctx.Done():
		return result, ctx.Err()
	}
}

// Lag implements broker.Broker. Pulsar tells it only over its admin API, at another address.
func (b *Broker) Lag(context.Context, string) (messages int64, known bool, err error) {
	return 0, false, nil
}

// History implements broker.Broker: what every subscription has acknowledged is deleted.
func (b *Broker) History() broker.History { return nil }

// Letters implements broker.Broker.
func (b *Broker) Letters() broker.Letters { return &b.letters }
