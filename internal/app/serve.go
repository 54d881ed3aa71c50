package app

import (
	"context"
	"log/slog"
)

// Serve runs the service against real servers until ctx ends.
func Serve(ctx context.Context, config Config, role Role, log *slog.Logger) error {
	a, err := New(ctx, config, role, log)
	if err != nil {
		return err
	}
	defer a.Close()
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
