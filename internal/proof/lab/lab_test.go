package lab

import (
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// setup returns a lab on servers of its own.
func setup(t *testing.T) *Lab {
	t.Helper()
	provider := shoptest.Provider(t, shoptest.ProviderOptions{})
	smtp, mailbox := shoptest.Mailbox(t)
	witnesses := Witnesses{
		Provider: func() (string, func(), error) { return provider, func() {}, nil },
		Mailbox:  func() (string, string, func(), error) { return smtp, mailbox, func() {}, nil },
	}
	cache := shoptest.Miniredis(t)
	broker := shoptest.NATS(t, t.TempDir())
	client, err := redisclient.Open(cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := nats.Connect(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	l := New(shoptest.Pool(t, shoptest.DatabaseURL(t)), client, conn, witnesses,
		slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(l.Close)
	return l
}

// Every naive twin goes wrong where the matrix says so, and no guarded one does.
//
//nolint:tparallel // a lab runs few experiments at a time
func TestExperiments(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, e := range Experiments() { //nolint:paralleltest // see above
		t.Run(e.ID, func(t *testing.T) {
			result, err := l.Run(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			if e.Guarded.Expect != Holds {
				t.Errorf("the guarded twin is expected to be one that %s", e.Guarded.Expect)
			}
			for side, outcome := range map[Side]Outcome{NaiveSide: result.Naive, GuardedSide: result.Guarded} {
				if outcome.Failure != "" || outcome.Verdict != outcome.Expected || len(outcome.Steps) == 0 ||
					len(outcome.Effects) == 0 {
					t.Errorf("%s: %q, want %q; failure %q; effects %+v", side, outcome.Verdict, outcome.Expected,
						outcome.Failure, outcome.Effects)
					for _, step := range outcome.Steps {
						t.Logf("%8s %s -> %s %s: %s", step.At, step.From, step.To, step.Kind, step.Text)
					}
				}
			}
		})
	}
}
