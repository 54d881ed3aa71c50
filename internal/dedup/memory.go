package dedup

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
)

// Seen is a bounded set of what this process has met. It forgets by TTL, by size and with
// the process, so "not seen" proves nothing: the database is asked next.
type Seen struct {
	set *otter.Cache[string, struct{}]
}

// NewSeen returns a set of at most size keys, each kept for ttl.
func NewSeen(size int, ttl time.Duration) *Seen {
	return &Seen{set: otter.Must(&otter.Options[string, struct{}]{
		MaximumSize:      size,
		ExpiryCalculator: otter.ExpiryCreating[string, struct{}](ttl),
	})}
}

// First adds the key and reports whether it was absent: exactly one of many concurrent callers is told so.
func (s *Seen) First(key string) bool {
	_, added := s.set.SetIfAbsent(key, struct{}{})
	return added
}

// Forget takes the key out again, for work that was not done after all.
func (s *Seen) Forget(key string) {
	s.set.Invalidate(key)
}

// Close ends the set's upkeep in the background. The set must not be used any more.
func (s *Seen) Close() { s.set.StopAllGoroutines() }

// Replays spares the database repeated requests on one node: it answers those whose final answer it still holds, and
// lets twins that run at the same time share one execution. A nil *Replays does neither.
type Replays struct {
	answers *otter.Cache[RequestID, Answer]
	running singleflight.Group
}

// Close ends the upkeep in the background; requests are then no longer answered.
func (r *Replays) Close() { r.answers.StopAllGoroutines() }

// RequestID names a request with its meaning: equal ids are the same customer, operation, key and fingerprint.
// A reused key with another meaning has another id and so reaches the database, which refuses it.
type RequestID [sha256.Size]byte

// RequestIDOf names a request of one customer for one operation.
func RequestIDOf(operation string, customer uuid.UUID, key Key, meaning Fingerprint) RequestID {
	parts := make([]byte, 0, 512) // room for the longest key, and not on the heap
	parts = append(parts, customer[:]...)
	parts = append(parts, meaning[:]...)
	parts = append(parts, operation...)
	parts = append(parts, '\n') // neither an operation nor a key can hold a line break
	parts = append(parts, key...)
	return sha256.Sum256(parts)
}

// NewReplays keeps final answers up to maxBytes of bodies in all, each for ttl.
func NewReplays(maxBytes uint64, ttl time.Duration) *Replays {
	return &Replays{answers: otter.Must(&otter.Options[RequestID, Answer]{
		MaximumWeight:    maxBytes,
		Weigher:          func(_ RequestID, a Answer) uint32 { return uint32(len(a.Body)) + 256 }, //nolint:gosec // bodies are small
		ExpiryCalculator: otter.ExpiryCreating[RequestID, Answer](ttl),
	})}
}

// Do returns the remembered answer of the request, or joins a twin that is running now, or runs it. The run
// gets a context that outlives ctx, because a twin may wait for it after its own client has
// gone; run must bound itself. An answer is remembered only when run has returned it as final, hence after its commit.
func (r *Replays) Do(ctx context.Context, id RequestID, run func(context.Context) (Answer, error)) (Answer, error) {
	if r == nil {
		return run(ctx)
	}
	if answer, ok := r.answers.GetIfPresent(id); ok {
		answer.Replayed, answer.StoppedBy = true, ByMemory
		return answer, nil
	}
	return r.share(ctx, id, run)
}

// share runs the request or joins its twin. It is apart from Do because what its goroutine holds lives on the heap.
func (r *Replays) share(ctx context.Context, id RequestID, run func(context.Context) (Answer, error)) (Answer, error) {
	var leads bool
	result := r.running.DoChan(string(id[:]), func() (_ any, err error) {
		leads = true
		// The run has a goroutine of its own, so nobody above it could recover a panic.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		answer, err := run(context.WithoutCancel(ctx))
		if err == nil && answer.Final {
			r.answers.Set(id, answer)
		}
		return answer, err
	})
	select {
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	case done := <-result:
		answer, _ := done.Val.(Answer)
		if !leads && done.Err == nil {
			answer.Replayed, answer.StoppedBy = answer.Replayed || answer.Final, ByMemory
		}
		return answer, done.Err
	}
}
