package dedup

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/onceshop/onceshop/internal/bounded"
)

// Seen is a bounded set of the keys that this process has met. It forgets after a TTL, when it is
// full and at a restart. An absent key therefore proves nothing: the caller goes on to the
// database, which decides.
type Seen struct {
	set bounded.Map[string, struct{}]
}

// NewSeen returns a set of at most size keys, each kept for ttl.
func NewSeen(size int, ttl time.Duration) *Seen {
	return &Seen{set: otter.Must(&otter.Options[string, struct{}]{
		MaximumSize:      size,
		ExpiryCalculator: otter.ExpiryCreating[string, struct{}](ttl),
	})}
}

// First adds the key and reports whether it was absent. The two are one atomic step: a lookup
// followed by an insert would return true to several concurrent callers.
func (s *Seen) First(key string) bool {
	_, added := s.set.SetIfAbsent(key, struct{}{})
	return added
}

// Forget removes the key. Call it when the work failed, or its retry would be skipped.
func (s *Seen) Forget(key string) {
	s.set.Invalidate(key)
}

// Close stops the set's background goroutines. The set must not be used afterwards.
func (s *Seen) Close() { s.set.StopAllGoroutines() }

// Replays answers repeated requests from memory. It keeps final answers, and it lets concurrent
// twins on one node share one execution. A nil *Replays runs every request.
type Replays struct {
	answers bounded.Map[RequestID, kept]
	running singleflight.Group
	era     atomic.Int64
}

// kept is an answer with the era in which its request began.
type kept struct {
	Answer
	era int64
}

// NewReplays keeps answers of up to maxBytes in total, each for ttl.
func NewReplays(maxBytes uint64, ttl time.Duration) *Replays {
	const overhead = 256 // of an entry besides its body
	return &Replays{answers: otter.Must(&otter.Options[RequestID, kept]{
		MaximumWeight: maxBytes,
		Weigher: func(_ RequestID, a kept) uint32 {
			return uint32(len(a.Body)) + overhead //nolint:gosec // bodies are small
		},
		ExpiryCalculator: otter.ExpiryCreating[RequestID, kept](ttl),
	})}
}

// Close stops the background goroutines. The Replays must not be used afterwards.
func (r *Replays) Close() { r.answers.StopAllGoroutines() }

// Unsure is the era in which nothing is answered from memory.
const Unsure = -1

// SetEra ends the use of all answers of another era: those of requests that began before. It is
// how a node learns that stored answers were erased.
func (r *Replays) SetEra(era int64) { r.era.Store(era) }

// Do returns the stored answer of the request, joins a twin that is running, or calls run. An
// answer is stored only after run returned it as final, and so after its commit: stored before, it
// could answer for work that was rolled back.
//
// The context of run outlives ctx, because a twin can wait for the answer after this client has
// gone. Run must set its own deadline.
func (r *Replays) Do(ctx context.Context, id RequestID, run func(context.Context) (Answer, error)) (Answer, error) {
	if r == nil {
		return run(ctx)
	}
	era := r.era.Load()
	if answer, ok := r.answers.GetIfPresent(id); ok && answer.era == era && era != Unsure {
		answer.Replayed, answer.StoppedBy = true, ByMemory
		return answer.Answer, nil
	}
	return r.share(ctx, id, era, run)
}

// share runs the request or joins its twin. It is not part of Do because its closure moves the
// arguments to the heap, which a stored answer does not need.
func (r *Replays) share(
	ctx context.Context, id RequestID, era int64, run func(context.Context) (Answer, error),
) (Answer, error) {
	var leads bool
	result := r.running.DoChan(string(id[:]), func() (_ any, err error) {
		leads = true
		defer func() { // on this goroutine, the HTTP server cannot recover a panic
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		answer, err := run(context.WithoutCancel(ctx))
		if err == nil && answer.Final {
			r.answers.Set(id, kept{answer, era})
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
