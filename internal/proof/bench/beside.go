package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/retain"
)

const (
	// buyersBeside is how many buyers place orders while other work is under way.
	buyersBeside = 8
	// lostAge is the maximum age of the stream that is lost. The orders that were written are older
	// than a day: the events of a day and a quarter are to be sent again.
	lostAge = 60 * time.Hour
	// keptFor leaves some of the orders' events to delete also when few orders were written.
	keptFor = 26 * time.Hour
	// deleteOn is how much longer than orders are placed a slice of deletions may take.
	deleteOn = 10 * time.Second
)

// placeBeside is the placing of orders while other work is under way. Each call of work does a
// part of it, and returns false when nothing is left.
func (b *bench) placeBeside(ctx context.Context, callers int, length time.Duration,
	work func(context.Context) (more bool, err error)) (sample, error) {
	working, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan error, 1)
	go func() {
		more, err := true, error(nil)
		for more && err == nil && working.Err() == nil {
			more, err = work(working)
		}
		if working.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // the time was up
		}
		worked <- err
	}()
	placed, err := side{open: b.place(uniform)}.load(ctx, callers, length)
	stop()
	return placed, errors.Join(err, <-worked)
}

// besideMend is the placing of orders while the relay sends again what a broker without its stream
// has lost. What is left of that is sent while the clock stands.
func (b *bench) besideMend(ctx context.Context, js jetstream.JetStream, prefix string) (side, error) {
	relay, err := b.openRelay(ctx, b.ours, js, prefix, lostAge)
	if err != nil {
		return side{}, err
	}
	// A step is not interrupted: the events that it claimed would wait for the end of its lease.
	mend := func(context.Context) (more bool, err error) {
		if more, err = relay.Mend(ctx); more || err != nil {
			return more, err
		}
		sent, err := relay.RunOnce(ctx)
		return sent > 0, err
	}
	return b.verified(func(ctx context.Context, callers int, length time.Duration) (sample, error) {
		stream, err := js.Stream(ctx, prefix+eventsStream)
		if err == nil {
			err = stream.Purge(ctx)
		}
		if err != nil {
			return sample{}, fmt.Errorf("lose the stream: %w", err)
		}
		if more, err := relay.Mend(ctx); err != nil || !more {
			return sample{}, errors.Join(errors.New("the stream is lost, and no event is to be sent again"), err)
		}
		placed, err := b.placeBeside(ctx, callers, length, mend)
		for more := err == nil; more && err == nil; {
			more, err = mend(ctx)
		}
		return placed, err
	}), nil
}

// besideDeletions is the placing of orders while old rows are deleted.
func (b *bench) besideDeletions() side {
	memory := retain.Memory{Events: keptFor, Receipts: keptFor, ProviderEvents: keptFor, StoppedTwins: keptFor}
	service := retain.New(b.ours, memory, time.Now, slog.New(slog.DiscardHandler))
	return b.verified(func(ctx context.Context, callers int, length time.Duration) (sample, error) {
		return b.placeBeside(ctx, callers, length, func(working context.Context) (more bool, err error) {
			going, stop := context.WithCancel(ctx)
			defer stop()
			defer context.AfterFunc(working, func() { time.AfterFunc(deleteOn, stop) })()
			return false, service.RunOnce(going)
		})
	})
}

// verified is a side whose run places orders that must agree with the books.
func (b *bench) verified(run func(context.Context, int, time.Duration) (sample, error)) side {
	return side{run: run, books: &books{b.ours}, each: entry{Orders: 1, Units: 2}}
}
