package lab

import (
	"context"
	"errors"
)

func redisTwoNodesNaive(ctx context.Context, b *Bench) error {
	p, err := b.naivePair(ctx, articleTTL, false)
	if err != nil {
		return err
	}
	_, err = bothSend(p.a, p.b, func(w *worker) (bool, error) { return p.send(ctx, w, naiveSender.sendOnce) })
	return err
}

func redisTwoNodesGuarded(ctx context.Context, b *Bench) error {
	p, err := b.guardedPair(ctx, false)
	if err != nil {
		return err
	}
	late, err := bothSend(p.a, p.b, func(w *worker) (bool, error) {
		busy, err := w.handle(ctx, p.event)
		return !busy, err
	})
	if err != nil || late == nil {
		return err
	}
	return late.settle(ctx, p.event)
}

func redisExpireNaive(ctx context.Context, b *Bench) error {
	p, err := b.naivePair(ctx, articleTTL, false)
	if err != nil {
		return err
	}
	p.a.diesAt("after set", "dies before EXPIRE")
	for _, w := range []*worker{p.a, p.b} {
		if _, err := p.send(ctx, w, naiveSender.sendWithSetNX); err != nil {
			return err
		}
	}
	return p.b.redis.TTL(ctx, p.name()).Err()
}

func redisExpireGuarded(ctx context.Context, b *Bench) error {
	p, err := b.guardedPair(ctx, false)
	if err != nil {
		return err
	}
	p.a.diesAt("after set", "dies right after its claim")
	for _, w := range []*worker{p.a, p.b} {
		if _, err := w.handle(ctx, p.event); err != nil {
			return err
		}
	}
	if err := p.endsSoon(ctx); err != nil {
		return err
	}
	return p.b.settle(ctx, p.event)
}

func redisMarkedNaive(ctx context.Context, b *Bench) error {
	p, err := b.naivePair(ctx, articleTTL, false)
	if err != nil {
		return err
	}
	p.a.diesAt("after set", "dies before it sends")
	for _, w := range []*worker{p.a, p.b} {
		if _, err := p.send(ctx, w, naiveSender.sendOnce); err != nil {
			return err
		}
	}
	return nil
}

func redisMarkedGuarded(ctx context.Context, b *Bench) error {
	p, err := b.guardedPair(ctx, false)
	if err != nil {
		return err
	}
	p.a.diesAt("after ClaimReceipt", "dies before it sends")
	for _, w := range []*worker{p.a, p.b} {
		if _, err := w.handle(ctx, p.event); err != nil {
			return err
		}
	}
	if err := errors.Join(p.endsSoon(ctx), p.rowLeaseEnds(ctx)); err != nil {
		return err
	}
	return p.b.settle(ctx, p.event)
}

func redisTTLNaive(ctx context.Context, b *Bench) error {
	p, err := b.naivePair(ctx, shortTTL, false)
	if err != nil {
		return err
	}
	send := func(w *worker) error {
		_, err := p.send(ctx, w, naiveSender.sendOnce)
		return err
	}
	return p.a.whileSlow(ctx, func() error { return send(p.a) }, func() error {
		if err := p.ends(ctx); err != nil {
			return err
		}
		return send(p.b)
	})
}

func redisTTLGuarded(ctx context.Context, b *Bench) error {
	p, err := b.guardedPair(ctx, false)
	if err != nil {
		return err
	}
	err = p.a.whileSlow(ctx, func() error { return p.a.settle(ctx, p.event) }, func() error {
		if err := p.endsSoon(ctx); err != nil {
			return err
		}
		_, err := p.b.handle(ctx, p.event)
		return err
	})
	if err != nil {
		return err
	}
	return p.b.settle(ctx, p.event)
}

func redisFlushNaive(ctx context.Context, b *Bench) error {
	p, err := b.naivePair(ctx, articleTTL, false)
	if err != nil {
		return err
	}
	if _, err := p.send(ctx, p.a, naiveSender.sendOnce); err != nil {
		return err
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	_, err = p.send(ctx, p.b, naiveSender.sendOnce)
	return err
}

func redisFlushGuarded(ctx context.Context, b *Bench) error {
	p, err := b.guardedPair(ctx, false)
	if err != nil {
		return err
	}
	if err := p.a.settle(ctx, p.event); err != nil {
		return err
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	return p.b.settle(ctx, p.event)
}

func redisDownNaive(ctx context.Context, b *Bench) error {
	p, err := b.naivePair(ctx, articleTTL, true)
	if err != nil {
		return err
	}
	b.Fails(ctx, RedisBox, "down")
	for _, w := range []*worker{p.a, p.b} {
		if _, err := p.send(ctx, w, naiveSender.sendEvenWithoutRedis); err != nil {
			return err
		}
	}
	return nil
}

func redisDownGuarded(ctx context.Context, b *Bench) error {
	p, err := b.guardedPair(ctx, true)
	if err != nil {
		return err
	}
	b.Fails(ctx, RedisBox, "down")
	err = p.a.whileSlow(ctx, func() error { return p.a.settle(ctx, p.event) }, func() error {
		_, err := p.b.handle(ctx, p.event)
		return err
	})
	if err != nil {
		return err
	}
	return p.b.settle(ctx, p.event)
}
