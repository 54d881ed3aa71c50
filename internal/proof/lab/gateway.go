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
	// only, if set, picks the orders and charges that are drawn: a worker meets those of other runs
	// too.
	only func(id string) bool
	// beforeCall, if set, looks at what is stored when the provider is asked.
	beforeCall func(ctx context.Context, r payments.CaptureRequest)
	// beforeSave, if set, runs once, when the provider has answered and the answer is not stored
	// yet.
	beforeSave func(context.Context)
}

// Capture implements payments.Provider.
func (g *gateway) Capture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	if g.only != nil && !g.only(r.OrderID) {
		return g.Provider.Capture(ctx, r)
	}
	g.bench.own(r.Reference)
	if g.beforeCall != nil {
		g.beforeCall(ctx, r)
	}
	g.bench.Says(ctx, g.actor, Provider, "capture %s, key %s", r.Money(), short(r.Key))
	capture, err := g.Provider.Capture(ctx, r)
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

// FindCapture implements payments.Provider.
func (g *gateway) FindCapture(ctx context.Context, r payments.CaptureRequest) (payments.Capture, error) {
	capture, err := g.Provider.FindCapture(ctx, r)
	if err == nil && (g.only == nil || g.only(r.Reference)) {
		g.bench.Says(ctx, g.actor, Provider, "capture for %s?", short(r.Reference))
		answer := "none"
		if capture.Status != payments.CaptureNone {
			answer = short(capture.ID) + " " + capture.Status
		}
		g.bench.Says(ctx, Provider, g.actor, "%s", answer)
	}
	return capture, err
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
