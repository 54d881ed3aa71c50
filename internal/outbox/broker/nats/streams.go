package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

const (
	// Prefix begins the names of the shop's streams, outside cells.
	Prefix = "SHOP"
	// EventStream holds every event under the subject "shop.events.<type>".
	EventStream = Prefix + eventSuffix
	// DeadStream holds events that a consumer gave up on under "shop.dead.<consumer>", until an
	// operator retries them.
	DeadStream = Prefix + deadSuffix

	eventSuffix = "_EVENTS"
	deadSuffix  = "_DEAD"
)

// PrefixOf returns what begins the names of a cell's streams.
func PrefixOf(cell string) string {
	if cell == "" {
		return Prefix
	}
	return Prefix + "_" + strings.ToUpper(cell)
}

// EventStreamOf returns the name of a cell's event stream.
func EventStreamOf(cell string) string { return PrefixOf(cell) + eventSuffix }

// DeadStreamOf returns the name of a cell's stream of dead letters.
func DeadStreamOf(cell string) string { return PrefixOf(cell) + deadSuffix }

// Open implements broker.Broker. It never reduces the number of a stream's copies.
func (b *Broker) Open(ctx context.Context) error {
	dead := jetstream.StreamConfig{Name: b.deadName, Subjects: []string{b.deadSubject + ">"}, MaxAge: broker.DeadAge}
	if _, err := b.configureStream(ctx, dead); err != nil {
		return err
	}
	events, err := b.configureStream(ctx, jetstream.StreamConfig{Name: b.eventName,
		Subjects: []string{b.eventSubject + ">"}, MaxAge: b.settings.MaxAge})
	if err != nil {
		return err
	}
	b.takesBatches.Store(events.CachedInfo().Config.AllowAtomicPublish) // false on a server that is too old
	return nil
}

// configureStream leaves a stream alone that has its configuration, because an update disturbs
// consumers at work.
func (b *Broker) configureStream(ctx context.Context, config jetstream.StreamConfig) (jetstream.Stream, error) {
	config.Retention = jetstream.LimitsPolicy // the others forget message ids; see dedup.Stream
	config.Duplicates = b.settings.Window
	config.Storage = jetstream.FileStorage
	config.AllowAtomicPublish = true
	stream, err := b.js.Stream(ctx, config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		// The answer shows that there is a connection: before, the cluster's name is empty.
		config.Replicas = b.replicas(b.js.Conn().ConnectedClusterName())
		// Nodes that start together all create the stream, which is no error with equal
		// configurations.
		stream, err = b.js.CreateStream(ctx, config)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", config.Name, err)
	}
	// The stream's own answer decides: a connection that breaks at this moment has no cluster.
	info := stream.CachedInfo()
	var cluster string
	if info.Cluster != nil {
		cluster = info.Cluster.Name
	}
	config.Replicas = max(b.replicas(cluster), info.Config.Replicas)
	if configured(info.Config, config) {
		return stream, nil
	}
	if stream, err = b.js.UpdateStream(ctx, config); err != nil {
		return nil, fmt.Errorf("update stream %s to %d copies: %w", config.Name, config.Replicas, err)
	}
	return stream, nil
}

// replicas returns the number of copies of a stream on the cluster, whose name is empty for a
// single server.
func (b *Broker) replicas(cluster string) int {
	switch {
	case b.settings.Replicas > 0:
		return b.settings.Replicas
	case cluster == "":
		return 1
	}
	return 3
}

func configured(is, want jetstream.StreamConfig) bool {
	return slices.Equal(is.Subjects, want.Subjects) && is.Duplicates == want.Duplicates && is.MaxAge == want.MaxAge &&
		is.Retention == want.Retention && is.Storage == want.Storage && is.Replicas == want.Replicas &&
		is.AllowAtomicPublish == want.AllowAtomicPublish
}
