package lab

import (
	"context"
	"time"
)

// inOrder takes steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// relayedTwice has the relay of one node die before it marks the event, and that of the other
// publish it again.
func relayedTwice(window time.Duration, newID func(string) string) func(context.Context, *Bench) error {
	return func(ctx context.Context, b *Bench) error {
		l, err := b.naiveLine(ctx, window, newID)
		if err != nil {
			return err
		}
		b.countStored()
		return inOrder(
			func() error { return l.relay(ctx, l.a, true) },
			func() error { return l.receiveAll(ctx, l.b, 0) },
			func() error { return l.windowEnds(ctx, window) },
			func() error { return l.relay(ctx, l.b, false) },
			func() error { return l.receiveAll(ctx, l.b, 1) })
	}
}

// relayedTwiceGuarded is the same with the shop's own services.
func relayedTwiceGuarded(window time.Duration) func(context.Context, *Bench) error {
	return func(ctx context.Context, b *Bench) error {
		l, err := b.guardedLine(ctx, window)
		if err != nil {
			return err
		}
		if window == longWindow {
			b.countStored()
		}
		return inOrder(
			func() error { return l.relay(ctx, l.a, true) },
			func() error { return l.receiveAll(ctx, l.b, 0) },
			func() error { return l.windowEnds(ctx) },
			func() error { return l.relay(ctx, l.b, false) },
			func() error { return l.receiveAll(ctx, l.b, 1) })
	}
}

func brokerAckNaive(ctx context.Context, b *Bench) error {
	l, err := b.naiveLine(ctx, longWindow, idOfEvent)
	if err != nil {
		return err
	}
	return inOrder(
		func() error { return l.relay(ctx, l.b, false) },
		func() error {
			l.a.diesAt("before ack", "dies before its ack")
			return l.receive(ctx, l.a, l.sender(l.a).receiveOne)
		},
		func() error { return b.comesAgain(ctx) },
		func() error { return l.receive(ctx, l.b, l.sender(l.b).receiveOne) })
}

func brokerAckGuarded(ctx context.Context, b *Bench) error {
	l, err := b.guardedLine(ctx, longWindow)
	if err != nil {
		return err
	}
	return inOrder(
		func() error { return l.relay(ctx, l.b, false) },
		func() error {
			l.a.diesAt("before ack", "dies before its ack")
			return l.receive(ctx, l.a)
		},
		func() error { return b.comesAgain(ctx) },
		func() error { return l.receive(ctx, l.b) })
}

func brokerAllNaive(ctx context.Context, b *Bench) error {
	l, err := b.naiveLine(ctx, shortWindow, idOfEvent)
	if err != nil {
		return err
	}
	start := func(w *worker) naiveChain { return naiveChain{sender: l.sender(w), seen: map[string]bool{}} }
	return inOrder(
		func() error { return l.relay(ctx, l.a, true) },
		func() error { return l.receive(ctx, l.b, start(l.b).receiveOne) },
		func() error { return l.windowEnds(ctx, shortWindow) },
		func() error { return l.relay(ctx, l.b, false) },
		func() error {
			b.Fails(ctx, NodeB, "restarts: its memory is empty")
			l.b.diesAt("before ack", "dies before its ack")
			return l.receive(ctx, l.b, start(l.b).receiveOne)
		},
		func() error { return l.flush(ctx) },
		func() error { return b.comesAgain(ctx) },
		func() error { return l.receive(ctx, l.a, start(l.a).receiveOne) })
}

func brokerAllGuarded(ctx context.Context, b *Bench) error {
	l, err := b.guardedLine(ctx, shortWindow)
	if err != nil {
		return err
	}
	return inOrder(
		func() error { return l.relay(ctx, l.a, true) },
		func() error { return l.receive(ctx, l.b) },
		func() error { return l.windowEnds(ctx) },
		func() error { return l.relay(ctx, l.b, false) },
		func() error { return l.restartB(ctx) },
		func() error {
			l.b.diesAt("before ack", "dies before its ack")
			return l.receive(ctx, l.b)
		},
		func() error { return l.flush(ctx) },
		func() error { return b.comesAgain(ctx) },
		func() error { return l.receive(ctx, l.a) })
}

func (l *guardedLine) restartB(ctx context.Context) (err error) {
	l.bench.Fails(ctx, NodeB, "restarts")
	if l.b, err = l.bench.guarded(ctx, NodeB, false); err != nil {
		return err
	}
	return l.subscribe(ctx, l.b)
}
