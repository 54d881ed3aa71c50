// Package servicebus is the adapter for Azure Service Bus: a topic with duplicate detection, a
// subscription with the name of each consumer, and one for probes. It creates none of them, because
// only Azure's management API can; deploy/azure has their description.
//
// Service Bus compares message ids over the topic, inside a window that is set when the topic is
// created. It confirms a duplicate like any other message.
package servicebus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

const (
	// closeTimeout bounds the goodbye to the broker.
	closeTimeout = 5 * time.Second
	// retries and the pauses between them are few and short: the relay and the consumers try again
	// themselves, and take other work meanwhile.
	retries    = 2
	retryPause = 50 * time.Millisecond
	retryMost  = time.Second
)

// Schemes begin the addresses of Service Bus. The second one begins the connection string that
// Azure shows.
func Schemes() []string { return []string{"servicebus", azureScheme} }

const azureScheme = "endpoint=sb"

// TopicOf returns the name of a cell's topic.
func TopicOf(cell string) string {
	if cell == "" {
		return "shop-events"
	}
	return "shop-" + cell + "-events"
}

// Settings are what the broker has for the shop.
type Settings struct {
	// Topic is the name of the topic, and Consumers are those of its subscriptions.
	Topic     string
	Consumers []string
	// Window is the topic's duplicate detection window.
	Window time.Duration
	// MaxAge is how long the topic keeps messages.
	MaxAge time.Duration
	// Lock is the subscriptions' lock duration, broker.HandleTimeout by default.
	Lock time.Duration
}

// Broker is a client of one topic and its subscriptions.
type Broker struct {
	settings Settings
	client   *azservicebus.Client
	sender   *azservicebus.Sender
	// dead are the consumers' dead-letter queues, to look into.
	dead  map[string]*azservicebus.Receiver
	log   *slog.Logger
	probe struct {
		sync.Mutex
		passed bool
	}
}

var _ broker.Broker = (*Broker)(nil)

// Connect returns the broker at an address such as servicebus://KEY-NAME:KEY@HOST, or with Azure's
// connection string. With ?emulator=true it speaks plain AMQP. Connect does not wait for the
// broker: the client connects when it is used.
func Connect(address string, settings Settings, log *slog.Logger) (*Broker, error) {
	text, err := connectionString(address)
	if err != nil {
		return nil, err
	}
	if settings.Lock == 0 {
		settings.Lock = broker.HandleTimeout
	}
	client, err := azservicebus.NewClientFromConnectionString(text, &azservicebus.ClientOptions{
		RetryOptions: azservicebus.RetryOptions{MaxRetries: retries, RetryDelay: retryPause, MaxRetryDelay: retryMost},
	})
	if err != nil {
		return nil, errAddress
	}
	sender, err := client.NewSender(settings.Topic, nil)
	if err != nil {
		return nil, fmt.Errorf("open topic %s: %w", settings.Topic, err)
	}
	b := &Broker{settings: settings, client: client, sender: sender, log: log,
		dead: map[string]*azservicebus.Receiver{}}
	for _, consumer := range settings.Consumers {
		if b.dead[consumer], err = b.receiver(consumer, azservicebus.SubQueueDeadLetter); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// errAddress does not wrap its cause, which can contain the key.
var errAddress = errors.New("not an address such as servicebus://key-name:key@shop.servicebus.windows.net, with " +
	"the key percent-encoded, nor Azure's connection string Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…")

// connectionString is what Azure's client calls an address.
func connectionString(address string) (string, error) {
	if scheme, _, _ := strings.Cut(address, "://"); strings.EqualFold(scheme, azureScheme) {
		return address, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User == nil || strings.Contains(u.Host, ";") {
		return "", errAddress
	}
	key, _ := u.User.Password()
	if key == "" || u.User.Username() == "" || strings.Contains(key+u.User.Username(), ";") {
		return "", errAddress
	}
	text := fmt.Sprintf("Endpoint=sb://%s/;SharedAccessKeyName=%s;SharedAccessKey=%s", u.Host, u.User.Username(), key)
	if u.Query().Get("emulator") == "true" {
		text += ";UseDevelopmentEmulator=true"
	}
	return text, nil
}

// receiver receives from a consumer's subscription, or from a queue below it.
func (b *Broker) receiver(consumer string, queue azservicebus.SubQueue) (*azservicebus.Receiver, error) {
	receiver, err := b.client.NewReceiverForSubscription(b.settings.Topic, consumer,
		&azservicebus.ReceiverOptions{SubQueue: queue})
	if err != nil {
		return nil, fmt.Errorf("open subscription %s of topic %s: %w", consumer, b.settings.Topic, err)
	}
	return receiver, nil
}

// Name implements broker.Broker.
func (b *Broker) Name() string { return "servicebus" }

// Memory implements broker.Broker.
func (b *Broker) Memory() broker.Memory {
	return broker.Memory{Compares: broker.IDs, Scope: "the topic", Window: b.settings.Window, MaxAge: b.settings.MaxAge}
}

// Open returns an error if the topic or a subscription does not exist. The first time, it publishes
// probes: see deduplicates.
func (b *Broker) Open(ctx context.Context) error {
	if err := b.Ready(ctx); err != nil {
		return err
	}
	return b.deduplicates(ctx)
}

// Ready implements broker.Broker. It never returns ErrNotOpen: Open creates nothing.
func (b *Broker) Ready(ctx context.Context) error {
	if _, err := b.sender.NewMessageBatch(ctx, nil); err != nil {
		return fmt.Errorf("open topic %s: %w", b.settings.Topic, err)
	}
	for _, consumer := range b.settings.Consumers {
		if _, err := b.peek(ctx, consumer, 0, 1); err != nil {
			return err
		}
	}
	return nil
}

// closeReceiver ends a link, also when ctx has ended.
func (b *Broker) closeReceiver(ctx context.Context, receiver *azservicebus.Receiver) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := receiver.Close(ctx); err != nil {
		b.log.WarnContext(ctx, "a subscription's link was not closed in order", "error", err)
	}
}

// Lag implements broker.Broker. AMQP has no request for it.
func (b *Broker) Lag(context.Context, string) (messages int64, known bool, err error) {
	return 0, false, nil
}

// History implements broker.Broker.
func (b *Broker) History() broker.History { return nil }

// Close implements broker.Broker.
func (b *Broker) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := b.client.Close(ctx); err != nil {
		b.log.WarnContext(ctx, "the broker's connection was not closed in order", "error", err)
	}
}
