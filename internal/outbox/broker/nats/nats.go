// Package nats carries the shop's events over NATS JetStream. It publishes with dedup.Stream,
// strategy 4 against duplicates.
package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/outbox/broker"
)

// Schemes begin the addresses of NATS servers.
func Schemes() []string { return []string{"nats", "tls", "ws", "wss"} }

// ackTimeout bounds the wait for an acknowledgement. A lost one would otherwise block a slot for a
// publish.
const ackTimeout = 10 * time.Second

// Broker is JetStream, with a stream of events and one of dead letters.
type Broker struct {
	js           jetstream.JetStream
	settings     Settings
	log          *slog.Logger
	events, dead *dedup.Stream
	// The names of the streams, and what their subjects begin with.
	eventName, deadName       string
	eventSubject, deadSubject string
	takesBatches              atomic.Bool
	close                     func()
}

var _ broker.Broker = (*Broker)(nil)

// Settings are the settings of the shop's streams.
type Settings struct {
	// Prefix begins the streams' names, and in lower case their subjects. It is Prefix by default.
	Prefix string
	// Window is how long the broker remembers message ids.
	Window time.Duration
	// MaxAge is how long the broker keeps events.
	MaxAge time.Duration
	// Replicas is the number of copies of each stream. By default it is 3 in a cluster, else 1.
	Replicas int
}

// Connect returns the broker at the address, which may be a list. It does not wait for the broker:
// the client keeps trying to connect, and logs it.
func Connect(address string, settings Settings, log *slog.Logger) (*Broker, error) {
	connected := func(conn *nats.Conn) {
		log.Info("connected to the broker",
			"server", conn.ConnectedUrlRedacted(), "cluster", conn.ConnectedClusterName())
	}
	failed := func(_ *nats.Conn, err error) {
		if err != nil { // the client connects again by itself
			log.Warn("the broker's connection failed", "error", err)
		}
	}
	conn, err := nats.Connect(address, nats.Name("onceshop"), nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1), nats.ConnectHandler(connected), nats.ReconnectHandler(connected),
		nats.DisconnectErrHandler(failed), nats.ReconnectErrHandler(failed),
		nats.ErrorHandler(func(conn *nats.Conn, _ *nats.Subscription, err error) { failed(conn, err) }))
	if parse, ok := errors.AsType[*url.Error](err); ok {
		err = parse.Err // without the address, which contains the password
	}
	if err != nil {
		return nil, fmt.Errorf("not an address such as nats://user:password@host:4222: %w", err)
	}
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("not usable for JetStream: %w", err)
	}
	b := New(js, settings, log)
	b.close = conn.Close
	return b, nil
}

// New returns the broker of a client that the caller closes.
func New(js jetstream.JetStream, settings Settings, log *slog.Logger) *Broker {
	prefix := cmp.Or(settings.Prefix, Prefix)
	events, dead, subjects := prefix+eventSuffix, prefix+deadSuffix, strings.ToLower(prefix)
	return &Broker{js: js, settings: settings, log: log, close: func() {},
		events: dedup.NewStream(js, events), dead: dedup.NewStream(js, dead), eventName: events, deadName: dead,
		eventSubject: subjects + ".events.", deadSubject: subjects + ".dead."}
}

// Close implements broker.Broker.
func (b *Broker) Close() { b.close() }

// Name implements broker.Broker.
func (b *Broker) Name() string { return "nats" }

// Memory implements broker.Broker.
func (b *Broker) Memory() broker.Memory {
	return broker.Memory{Compares: broker.IDs, Scope: "the stream", Window: b.settings.Window, Tells: true,
		MaxAge: b.settings.MaxAge}
}

// Ready implements broker.Broker. A stream without a leader answers and takes no message.
func (b *Broker) Ready(ctx context.Context) error {
	stream, err := b.stream(ctx, b.eventName)
	if err != nil {
		return err
	}
	if cluster := stream.CachedInfo().Cluster; cluster != nil && cluster.Name != "" && cluster.Leader == "" {
		return errors.New("the event stream has no leader")
	}
	return nil
}

// Lag implements broker.Broker.
func (b *Broker) Lag(ctx context.Context, consumer string) (messages int64, known bool, err error) {
	found, err := b.js.Consumer(ctx, b.eventName, consumer)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("ask for consumer %s: %w", consumer, err)
	}
	info := found.CachedInfo()
	return number(info.NumPending) + int64(info.NumAckPending), true, nil
}

// stream returns a stream with its state of now, or broker.ErrNotOpen.
func (b *Broker) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := b.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("%w: there is no stream %s", broker.ErrNotOpen, name)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for stream %s: %w", name, err)
	}
	return stream, nil
}

// number is a sequence number as the outbox stores it.
func number(seq uint64) int64 { return int64(seq) } //nolint:gosec // a stream does not reach 2^63 messages
