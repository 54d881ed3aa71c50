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

// brokerClient connects to a broker whose address has one of the schemes.
type brokerClient struct {
	schemes []string
	connect func(*App) (broker.Broker, error)
}

// BrokerClient connects to a broker whose address has one of the schemes. Its package is linked by
// another program than shop.
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
	Log            *slog.Logger
}

func (c BrokerClient) of(a *App) brokerClient {
	return brokerClient{c.Schemes, func(*App) (broker.Broker, error) {
		return c.Connect(BrokerSettings{URL: a.config.NATSURL, Cell: a.cell, Consumers: []string{notify.ConsumerName},
			Window: a.config.DuplicateWindow, MaxAge: a.config.StreamMaxAge, Log: a.log})
	}}
}

// otherPrograms are the programs that have the clients that shop lacks.
var otherPrograms = map[string]string{
	"pulsar": pulsarProgram, "pulsar+ssl": pulsarProgram,
}

const pulsarProgram = "shop-pulsar, from `go -C internal/outbox/broker/pulsar install ./shop-pulsar`"

// brokerClients are those that this program has.
var brokerClients = []brokerClient{{nats.Schemes(), connectNATS}, {servicebus.Schemes(), connectServiceBus}}

func connectNATS(a *App) (broker.Broker, error) {
	return nats.Connect(a.config.NATSURL, nats.Settings{Prefix: nats.PrefixOf(a.cell),
		Window: a.config.DuplicateWindow, MaxAge: a.config.StreamMaxAge, Replicas: a.config.StreamReplicas}, a.log)
}

func connectServiceBus(a *App) (broker.Broker, error) {
	return servicebus.Connect(a.config.NATSURL, servicebus.Settings{
		Topic: servicebus.TopicOf(a.cell), Consumers: []string{notify.ConsumerName},
		Window: a.config.DuplicateWindow, MaxAge: a.config.StreamMaxAge}, a.log)
}

// connectBroker does not wait for the broker: the client keeps trying to connect.
func (a *App) connectBroker() error {
	scheme := brokerScheme(a.config.NATSURL)
	var known []string
	clients := slices.Clone(brokerClients)
	for _, client := range a.config.Brokers {
		clients = append(clients, client.of(a))
	}
	for _, client := range clients {
		if known = append(known, client.schemes[0]+"://"); !slices.Contains(client.schemes, scheme) {
			continue
		}
		connected, err := client.connect(a)
		if err != nil {
			return fmt.Errorf("BROKER_URL is %w", err)
		}
		a.broker, a.letters = connected, outbox.NewLetters(connected)
		return nil
	}
	if program := otherPrograms[scheme]; program != "" {
		return fmt.Errorf("BROKER_URL: %s:// needs another program: %s", scheme, program)
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
