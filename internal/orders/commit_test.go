package orders_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// keyed are the operations of this package that have an idempotency key, on a shop with 10 cups.
// Each leaves the given number of cups.
func keyed(b *bundle) map[string]struct {
	run  func(context.Context, *orders.Service) (dedup.Answer, error)
	cups int
} {
	place, receive := b.order("k", line("CUP", 4)), b.delivery("k", line("CUP", 4))
	return map[string]struct {
		run  func(context.Context, *orders.Service) (dedup.Answer, error)
		cups int
	}{
		"place": {func(ctx context.Context, s *orders.Service) (dedup.Answer, error) {
			return s.Place(ctx, place)
		}, 6},
		"receive": {func(ctx context.Context, s *orders.Service) (dedup.Answer, error) {
			return s.Receive(ctx, receive)
		}, 14},
	}
}

func TestCommitWithoutReply(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"place", "receive"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.deliver(t, line("CUP", 10))
			operation := keyed(b)[name]
			armed, through := shoptest.CutCommits(t, b.url, shoptest.LoseAnswer)
			shop := orders.New(shoptest.Pool(t, through), orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
			armed.Store(true)
			answer, err := operation.run(t.Context(), shop)
			if err != nil {
				t.Fatal(err)
			}
			if armed.Load() {
				t.Fatal("no commit was cut")
			}
			again, err := operation.run(t.Context(), b.shop)
			if err != nil || answer.Status != 201 || answer.Replayed || !bytes.Equal(answer.Body, again.Body) {
				t.Errorf("the first answer is %+v, the retry's %+v, %v", answer, again, err)
			}
			if left := b.available(t, "CUP"); left != operation.cups {
				t.Errorf("%d cups left, want %d", left, operation.cups)
			}
		})
	}
}

func TestCommitThatNeverArrives(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"place", "receive"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.deliver(t, line("CUP", 10))
			operation := keyed(b)[name]
			armed, through := shoptest.CutCommits(t, b.url, shoptest.LoseRequest)
			shop := orders.New(shoptest.Pool(t, through), orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
			before := b.snapshot(t)
			armed.Store(true)
			if answer, err := operation.run(t.Context(), shop); !pg.IsUnavailable(err) {
				t.Fatalf("%s, %v, want an error for which pg.IsUnavailable holds", answer.Body, err)
			}
			b.unchanged(t, before)
			answer, err := operation.run(t.Context(), shop)
			if err != nil {
				t.Fatal(err)
			}
			if left := b.available(t, "CUP"); answer.Replayed || left != operation.cups {
				t.Errorf("the retry: %+v, %d cups left, want a first answer and %d", answer, left, operation.cups)
			}
		})
	}
}
