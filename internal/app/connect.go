package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/payments/provider/stripe"
	"github.com/onceshop/onceshop/internal/redisclient"
)

// provider is a node's client of the payment provider: the simulator or Stripe.
type provider interface {
	payments.Provider
	Ping(ctx context.Context) error
	CloseIdleConnections()
}

func (a *App) connectProvider() error {
	c := a.config
	if c.stripe() {
		client, err := stripe.New(c.StripeSecretKey, c.StripeURL, c.ProviderTimeout)
		if err != nil {
			return err
		}
		receiver, err := client.NewReceiver(c.StripeWebhookSecret, time.Now)
		if err != nil {
			return err
		}
		a.provider = client
		a.webhooks = map[string]api.EventReader{stripeWebhookPath: receiver.Read}
		return nil
	}
	receiver, err := psp.NewReceiver(c.PSPWebhookSecret, time.Now)
	if err != nil {
		return err
	}
	a.provider = psp.NewClient(c.PSPURL, c.ProviderTimeout)
	a.webhooks = map[string]api.EventReader{WebhookPath: receiver.Read}
	return nil
}

// BrokerClient connects to a broker whose address has one of the schemes. Another program than shop
// can have more of them.
type BrokerClient struct {
	Schemes []string
	Connect func(BrokerSettings) (broker.Broker, error)
}

// BrokerSettings are what a BrokerClient gets to know.
type BrokerSettings struct {
	URL, Cell string
	// Consumers are the names of all consumers.
	Consumers []string
	// Window is how long the broker has to remember a message at least, and MaxAge how long it
	// keeps one.
	Window, MaxAge time.Duration
	// Replicas is the number of copies of each message, or 0 for what the broker can hold.
	Replicas int
	Log      *slog.Logger
}

// otherPrograms are the programs that have the clients that shop lacks.
var otherPrograms = map[string]string{
	"pulsar": pulsarProgram, "pulsar+ssl": pulsarProgram,
}

const pulsarProgram = "shop-pulsar, from `go -C internal/outbox/broker/pulsar install ./shop-pulsar`"

// brokerClients are those that every program has.
var brokerClients = []BrokerClient{{nats.Schemes(), connectNATS}, {servicebus.Schemes(), connectServiceBus}}

func connectNATS(s BrokerSettings) (broker.Broker, error) {
	return nats.Connect(s.URL, nats.Settings{Prefix: nats.PrefixOf(s.Cell), Window: s.Window, MaxAge: s.MaxAge,
		Replicas: s.Replicas}, s.Log)
}

func connectServiceBus(s BrokerSettings) (broker.Broker, error) {
	return servicebus.Connect(s.URL, servicebus.Settings{Topic: servicebus.TopicOf(s.Cell), Consumers: s.Consumers,
		Window: s.Window, MaxAge: s.MaxAge}, s.Log)
}

// connectBroker does not wait for the broker: the client keeps trying to connect.
func (a *App) connectBroker() error {
	c := a.config
	scheme := brokerScheme(c.BrokerURL)
	clients := slices.Concat(brokerClients, c.Brokers)
	at := slices.IndexFunc(clients, func(client BrokerClient) bool { return slices.Contains(client.Schemes, scheme) })
	if at < 0 {
		return noClient(scheme, clients)
	}
	connected, err := clients[at].Connect(BrokerSettings{URL: c.BrokerURL, Cell: a.cell,
		Consumers: []string{notify.ConsumerName}, Window: c.DuplicateWindow, MaxAge: c.StreamMaxAge,
		Replicas: c.StreamReplicas, Log: a.log})
	if err != nil {
		return fmt.Errorf("BROKER_URL is %w", err)
	}
	a.broker, a.letters = connected, outbox.NewLetters(connected)
	return nil
}

// noClient is the error for a scheme that none of the clients has.
func noClient(scheme string, clients []BrokerClient) error {
	if program := otherPrograms[scheme]; program != "" {
		return fmt.Errorf("BROKER_URL: %s:// needs another program: %s", scheme, program)
	}
	var known []string
	for _, client := range clients {
		known = append(known, client.Schemes[0]+"://")
	}
	return fmt.Errorf("BROKER_URL: this program has no client for %s://, only for %s", scheme,
		strings.Join(known, ", "))
}

// brokerScheme returns the scheme of an address, or of the first in a list. An address without one
// is that of a NATS server.
func brokerScheme(address string) string {
	first, _, _ := strings.Cut(address, ",")
	scheme, _, ok := strings.Cut(first, "://")
	if !ok || strings.ContainsAny(scheme, ":@") {
		return nats.Schemes()[0]
	}
	return strings.ToLower(scheme)
}

func (a *App) connectWorkers() error {
	public, err := a.config.publicURL()
	if err != nil {
		return err
	}
	if a.redis, err = redisclient.Open(a.config.RedisURL); err != nil {
		return err
	}
	if a.mailer, err = notify.NewMailer(a.config.SMTPURL, notify.SendTimeout); err != nil {
		return err
	}
	host := mailHost(public)
	shop := notify.Shop{
		Name: a.config.Name,
		URL:  a.publicURL,
		Host: host,
		From: (&mail.Address{Name: a.config.Name, Address: "receipts@" + host}).String(),
	}
	claims := dedup.NewClaims(a.redis, claimPrefix(a.cell))
	a.notify = notify.New(a.pool, a.orders, claims, a.mailer, shop, a.recorder, a.log)
	return nil
}
