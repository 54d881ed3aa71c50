package lab

import (
	"context"
	"sync"
	"time"

	"github.com/onceshop/onceshop/internal/payments"
)

// penTimeout bounds the wait of one step for another.
const penTimeout = 5 * time.Second

// gateway is a process's way to the payment provider. It draws what passes.
type gateway struct {
	payments.Provider
	bench *Bench
	actor Actor
	// only, if set, says which orders and charges are drawn: a worker meets those of other runs
	// too.
	only func(id string) bool
	// beforeCall, if set, looks at what is stored when the provider is asked.
	beforeCall func(ctx context.Context, r payments.CaptureRequest)
	// beforeSave, if set, is what happens once, when the provider's answer has come and nobody has
	// stored it yet.
	beforeSave func(context.Context)
}

// Capture implements payments.Provider.
func (g *gateway) Capture(ctx context.Context, key string, r payments.CaptureRequest) (payments.Capture, error) {
	if g.only != nil && !g.only(r.OrderID) {
		return g.Provider.Capture(ctx, key, r)
	}
	g.bench.own(r.Reference)
	if g.beforeCall != nil {
		g.beforeCall(ctx, r)
	}
	g.bench.Says(ctx, g.actor, Provider, "capture %s, key %s", r.Money(), short(key))
	capture, err := g.Provider.Capture(ctx, key, r)
	if err != nil {
		g.bench.Loses(ctx, Provider, g.actor, "no answer")
		return capture, err
	}
	g.bench.Says(ctx, Provider, g.actor, "capture %s %s", short(capture.ID), capture.Status)
	if hook := g.beforeSave; hook != nil {
		g.beforeSave = nil
		hook(ctx)
	}
	return capture, nil
}

// FindCaptures implements payments.Provider.
func (g *gateway) FindCaptures(ctx context.Context, reference string) ([]payments.Capture, error) {
	captures, err := g.Provider.FindCaptures(ctx, reference)
	if err == nil && (g.only == nil || g.only(reference)) {
		g.bench.Says(ctx, g.actor, Provider, "captures of %s?", short(reference))
		g.bench.Says(ctx, Provider, g.actor, "captures found: %d", len(captures))
	}
	return captures, err
}

// ids are the orders and charges of a run, and which commits are drawn.
type ids struct{ known sync.Map }

func (i *ids) own(id string) { i.known.Store(id, true) }

func (i *ids) owns(id string) bool {
	_, ok := i.known.Load(id)
	return ok
}

func commitOf(id string) string       { return "commit of " + id }
func pendingOf(orderID string) string { return "pending charge of " + orderID }

// after waits until a commit is drawn: the twin that found it can be faster with the pen, and a
// diagram should not show an effect before its cause.
func (i *ids) after(ctx context.Context, commit string) {
	ctx, cancel := context.WithTimeout(ctx, penTimeout)
	defer cancel()
	_ = Until(ctx, commit, func(context.Context) (bool, error) { return i.owns(commit), nil })
}
