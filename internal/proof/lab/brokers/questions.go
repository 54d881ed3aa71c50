package brokers

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/pg"
)

// relayLease is how long a relay's claim of a row lasts.
const relayLease = 30 * time.Second

// isOf reports whether a message belongs to a run.
func isOf(data []byte, run string) bool { return bytes.Contains(data, []byte(run)) }

// again publishes a message twice, and lets something happen in between.
func again(between func(*session, context.Context) error) func(context.Context, *session) error {
	return func(ctx context.Context, s *session) error {
		m := s.message("1", base())
		s.answer.Events = 1
		if err := s.publish(ctx, s.client, m); err != nil {
			return err
		}
		if between != nil {
			if err := between(s, ctx); err != nil {
				return err
			}
		}
		return s.publish(ctx, s.client, m)
	}
}

func (s *session) passWindow(ctx context.Context) error {
	if s.PassWindow == nil {
		return notAskedError("no window")
	}
	return s.PassWindow(ctx)
}

func (s *session) restart(ctx context.Context) error {
	if s.Restart == nil {
		return notAskedError("not restarted here")
	}
	return s.Restart(ctx)
}

func otherPublisher(ctx context.Context, s *session) error {
	other, err := s.connect(ctx, "other")
	if err != nil {
		return err
	}
	defer other.Close()
	m := s.message("1", base())
	s.answer.Events = 1
	if err := s.publish(ctx, s.client, m); err != nil {
		return err
	}
	return s.publish(ctx, other, m)
}

func otherBody(ctx context.Context, s *session) error {
	m := s.message("1", base())
	changed := m
	changed.Data = fmt.Appendf(nil, `{"run":%q,"id":"changed"}`, s.run)
	s.answer.Events = 1
	return s.publish(ctx, s.client, m, changed)
}

func lowerNumber(ctx context.Context, s *session) error {
	first := base()
	s.answer.Events = 2
	return s.publish(ctx, s.client, s.message("later", first+1), s.message("earlier", first))
}

// naiveRelays lets the second relay publish its half first, as a lock on the first half's rows
// would make it. The first one has no answer to its first event, and publishes it again.
func naiveRelays(ctx context.Context, s *session) error {
	first := base()
	var halves [2][]func() error
	for i := range 10 {
		id := fmt.Sprint(i)
		publish := func() error {
			m := s.message(id, first+int64(i))
			m.ID += fmt.Sprintf(".try-%d", s.answer.Sent)
			return s.publish(ctx, s.client, m)
		}
		halves[i/5] = append(halves[i/5], publish)
	}
	s.answer.Events = 10
	for _, publish := range append(append(halves[1], halves[0]...), halves[0][0]) {
		if err := publish(); err != nil {
			return err
		}
	}
	return nil
}

// ourRelays has the shop's own relays publish, both at once.
func ourRelays(ctx context.Context, s *session) error {
	if s.Pool == nil {
		return notAskedError("no database here")
	}
	client, err := s.connect(ctx, "relay")
	if err != nil {
		return err
	}
	defer client.Close()
	events := make([]outbox.NewEvent, 50)
	for i := range events {
		events[i] = outbox.NewEvent{ID: uuid.Must(uuid.NewV7()), Type: s.Type, OrderID: uuid.Must(uuid.NewV7()),
			Data: map[string]any{"run": s.run, "n": i}}
	}
	err = pg.InTx(ctx, s.Pool, func(tx pgx.Tx) error { return outbox.EnqueueTx(ctx, tx, events...) })
	if err != nil {
		return err
	}
	var relays errgroup.Group
	for range 2 {
		relays.Go(func() error {
			return outbox.NewRelay(s.Pool, client, relayLease, nil, slog.New(slog.DiscardHandler)).Drain(ctx)
		})
	}
	s.answer.Events, s.answer.Sent = len(events), len(events)
	return relays.Wait()
}
