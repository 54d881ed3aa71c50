package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/onceshop/onceshop/internal/pg"
)

// Serve runs the service against real servers until ctx ends.
func Serve(ctx context.Context, config Config, role Role, log *slog.Logger) error {
	a, err := New(ctx, config, role, log)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.checkPooler(ctx); err != nil {
		return UsageError{err}
	}
	ops, err := config.ListenOps()
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "operations", "address", ops.Addr())
	if !role.Web {
		return a.Run(ctx, nil, ops)
	}
	web, err := config.ListenWeb()
	if err != nil {
		_ = ops.Close()
		return err
	}
	log.InfoContext(ctx, "serving", "address", web.Addr())
	return a.Run(ctx, web, ops)
}

// poolerTimeout bounds the look at a pooler. A server that takes longer is not looked at.
const poolerTimeout = 3 * time.Second

// checkPooler refuses a pooler that cannot carry the service's sessions.
func (a *App) checkPooler(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, poolerTimeout)
	defer cancel()
	lost, err := pg.CheckPooler(ctx, a.pool)
	if len(lost) > 0 {
		a.log.WarnContext(ctx, "the database's sessions lack settings that a pooler ignores: set them with ALTER ROLE",
			"settings", lost)
	}
	return err
}
