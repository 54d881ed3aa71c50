package dedup

import (
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/nats-io/nats.go/jetstream"
)

// Size is the number of keys held, once the cache has tidied up.
func (s *Seen) Size() int {
	s.otter().CleanUp()
	return s.otter().EstimatedSize()
}

// Weight is the weight of the answers held, once the cache has tidied up.
func (r *Replays) Weight() uint64 {
	r.otter().CleanUp()
	return r.otter().WeightedSize()
}

// Patient gives each step as long as a busy machine may take, where the budget is not the subject.
func (c *Claims) Patient() *Claims {
	c.budget = 20 * time.Second
	return c
}

// In is the same claim, finished with the patience of other claims.
func (c Claim) In(claims *Claims) Claim {
	c.claims = claims
	return c
}

// JetStream is the stream's broker.
func (s *Stream) JetStream() jetstream.JetStream { return s.js }

func (s *Seen) otter() *otter.Cache[string, struct{}] {
	return s.set.(*otter.Cache[string, struct{}]) //nolint:forcetypeassert // NewSeen makes no other
}

func (r *Replays) otter() *otter.Cache[RequestID, kept] {
	return r.answers.(*otter.Cache[RequestID, kept]) //nolint:forcetypeassert // NewReplays makes no other
}
