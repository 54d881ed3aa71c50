package torture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/notify"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/outbox/broker/servicebus"
)

// brokerCell is the shop's cell on a broker that the run did not start. The broker may carry the
// events of another shop, whose streams or topic have other names.
const brokerCell = "torture"

// broker carries the events of the nodes.
type broker struct {
	url string
	// host is the address that a proxy leads to. It is empty if no proxy can stand between, because
	// the connection is encrypted or the address is a list.
	host string
	// cell is empty if the run started the broker.
	cell string
}

// plainPorts are the ports of the schemes that can do without encryption.
var plainPorts = map[string]string{"nats": "4222", "servicebus": "5672"}

// scheme returns that of an address. An address without one is that of a NATS server.
func scheme(address string) string {
	name, _, ok := strings.Cut(address, "://")
	if !ok {
		return natsbroker.Schemes()[0]
	}
	return strings.ToLower(name)
}

// proxied returns the address that a proxy leads to, or "": see broker.
func proxied(address string) string {
	u, err := url.Parse(address)
	if err != nil || plainPorts[u.Scheme] == "" || u.Scheme == "servicebus" && u.Query().Get("emulator") != "true" {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), plainPorts[u.Scheme]))
}

// useBroker takes the broker of the options. It leaves out what would need a broker of the run's
// own, and what only a broker that keeps delivered events can do.
func (r *run) useBroker(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	b := &r.servers.broker
	*b = broker{url: r.BrokerURL, host: proxied(r.BrokerURL), cell: brokerCell}
	r.leftOut = []string{"fault broker.kill"}
	switch {
	case b.keeps():
		if err := r.dropStreams(ctx); err != nil {
			return err
		}
	case slices.Contains(servicebus.Schemes(), scheme(b.url)):
		client, err := servicebus.Connect(b.url, servicebus.Settings{Topic: servicebus.TopicOf(b.cell),
			Consumers: []string{notify.ConsumerName}}, slog.New(slog.DiscardHandler))
		if err != nil {
			return fmt.Errorf("BROKER_URL is %w", err)
		}
		defer client.Close() //nolint:contextcheck // it has its own deadline
		if err := client.Ready(ctx); err != nil {
			return fmt.Errorf("the broker of BROKER_URL: %w", err)
		}
	case r.Node[0] == r.Program:
		return fmt.Errorf("BROKER_URL: this program has no client for %s://; give --node another", scheme(b.url))
	}
	if !b.keeps() {
		r.leftOut = append(r.leftOut, "fault "+restored, redelivered, repeated, "twins stopped by: broker")
	}
	if b.host == "" {
		r.leftOut = append(r.leftOut, "fault broker.cut", "fault broker.latency")
	}
	r.kinds = slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return r.leaves("fault " + k.name) })
	r.tell("%s", r.brokerLine())
	return nil
}

// leaves reports whether the run leaves something out that others must have met.
func (r *run) leaves(what string) bool { return slices.Contains(r.leftOut, what) }

// keeps reports whether the broker keeps events that it has delivered, and counts deliveries.
func (b broker) keeps() bool { return slices.Contains(natsbroker.Schemes(), scheme(b.url)) }

// brokerLine describes a broker that the run did not start. It is empty for the run's own.
func (r *run) brokerLine() string {
	b := r.servers.broker
	if b.cell == "" {
		return ""
	}
	return fmt.Sprintf("The broker is that of BROKER_URL, %s://, with the names of cell %q. Left out: %s.",
		scheme(b.url), b.cell, strings.Join(r.leftOut, ", "))
}

// jetStream connects to a NATS server.
func (b broker) jetStream() (jetstream.JetStream, *nats.Conn, error) {
	conn, err := nats.Connect(b.url)
	if parse, ok := errors.AsType[*url.Error](err); ok {
		err = parse.Err // without the address, which contains the password
	}
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the broker: %w", err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("connect to the broker: %w", err)
	}
	return js, conn, nil
}

// dropStreams deletes what a run leaves at a NATS server that it did not start. Events of an
// earlier run would be those of a database that is gone.
func (r *run) dropStreams(ctx context.Context) error {
	b := &r.servers.broker
	js, conn, err := b.jetStream()
	if err != nil {
		return err
	}
	defer conn.Close()
	if conn.TLSRequired() {
		b.host = ""
	}
	for _, stream := range []string{natsbroker.EventStreamOf(b.cell), natsbroker.DeadStreamOf(b.cell)} {
		if err := js.DeleteStream(ctx, stream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete stream %s of an earlier run: %w", stream, err)
		}
	}
	return nil
}
