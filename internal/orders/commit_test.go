package orders_test

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestPlaceCommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10))
	armed, through := shoptest.CutCommits(t, b.url, shoptest.LoseAnswer)
	shop := orders.New(shoptest.Pool(t, through), orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	wish := b.order("k", line("CUP", 4))
	armed.Store(true)
	answer, err := shop.Place(t.Context(), wish)
	if err != nil {
		t.Fatal(err)
	}
	if armed.Load() {
		t.Fatal("no commit was cut")
	}
	if answer.Status != 201 || !bytes.Equal(answer.Body, b.place(t, wish).Body) {
		t.Errorf("the answer %d %s is not the stored one", answer.Status, answer.Body)
	}
	if n, left := b.count(t, "SELECT count(*) FROM orders"), b.available(t, "CUP"); n != 1 || left != 6 {
		t.Errorf("%d orders, %d cups left, want 1 and 6", n, left)
	}
}

func TestPlaceCommitThatNeverArrives(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 10))
	armed, through := shoptest.CutCommits(t, b.url, shoptest.LoseRequest)
	shop := orders.New(shoptest.Pool(t, through), orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	wish := b.order("k", line("CUP", 4))
	before := b.snapshot(t)
	armed.Store(true)
	if answer, err := shop.Place(t.Context(), wish); !pg.IsUnavailable(err) {
		t.Fatalf("%s, %v, want an error that says the database is unavailable", answer.Body, err)
	}
	b.unchanged(t, before)
	answer, err := shop.Place(t.Context(), wish)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Replayed || b.available(t, "CUP") != 6 {
		t.Errorf("the retry: %+v, %d cups left, want a first answer and 6", answer, b.available(t, "CUP"))
	}
}
