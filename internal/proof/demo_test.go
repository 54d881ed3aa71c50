package proof

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof/bench"
	"github.com/onceshop/onceshop/internal/proof/torture"
)

// In a program that is built without the demo, each command reports what is missing and what helps,
// and starts nothing.
func TestWithoutTheDemo(t *testing.T) {
	t.Parallel()
	named := app.Config{DatabaseURL: "postgres://127.0.0.1:1/shop", DataDir: t.TempDir()}
	for name, c := range map[string]struct {
		run  func(ctx context.Context) error
		says []string
	}{
		"lab": {func(ctx context.Context) error {
			return Lab(ctx, named, DemoServers{}, nil, false, io.Discard, io.Discard, slog.New(slog.DiscardHandler))
		}, []string{"no payment provider", "no mailbox", "a program that is built with it"}},
		"bench": {func(ctx context.Context) error {
			return Bench(ctx, named, DemoServers{}, bench.MinDuration, 0, false, io.Discard, io.Discard)
		}, []string{"no payment provider", "a program that is built with it", "--orders"}},
		"growth": {func(ctx context.Context) error {
			return Bench(ctx, named, DemoServers{}, bench.MinDuration, bench.MinGrown, false, io.Discard, io.Discard)
		}, []string{"no NATS", "BROKER_URL"}},
		"torture": {func(ctx context.Context) error {
			return Torture(ctx, DemoServers{}, TortureOptions{Duration: torture.MinDuration}, io.Discard, io.Discard)
		}, []string{"no NATS", "no payment provider", "no mailbox", "a program that is built with it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.run(t.Context())
			var usage app.UsageError
			if !errors.As(err, &usage) {
				t.Fatalf("error %v", err)
			}
			for _, want := range append(c.says, "built without internal/demo") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %q", want, err)
				}
			}
		})
	}
}
