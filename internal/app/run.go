package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/tracing"
)

// Run serves on the listeners and runs the workers until ctx ends. Then it stops in order: it waits
// for requests in flight, then for the workers. Web may be nil for a role without it. Run must be
// called only once.
func (a *App) Run(ctx context.Context, web, ops net.Listener) error {
	compareLater, err := a.refuseRestored(ctx)
	if err != nil {
		return err
	}
	work, stopWork := context.WithCancel(tracing.With(context.WithoutCancel(ctx), a.tracer))
	defer stopWork()
	stopRecording := a.record(ctx)
	defer stopRecording()
	a.log.InfoContext(ctx, "started", "version", BuildInfo().Version, "commit", BuildInfo().Commit, "web", a.role.Web,
		"workers", a.role.Workers, "traces", a.tracer != nil)
	group, failed := errgroup.WithContext(work)
	servers := []*http.Server{a.serve(group, ops, identify(a.config.OwnHosts(a.opsHandler())))}
	if a.role.Web {
		//nolint:contextcheck // echo carries each request's context
		servers = append(servers, a.serve(group, web, identify(a.config.OwnHosts(a.webHandler()))))
		group.Go(func() error { return a.watchErasures(failed) })
	}
	if compareLater != nil {
		group.Go(func() error { return compareLater(failed) })
	}
	if a.role.Workers {
		group.Go(func() error { return a.runRelay(failed) })
		group.Go(func() error { return a.runReceipts(failed) })
		group.Go(func() error { return a.notify.Run(failed) })
		group.Go(func() error { return a.payments.RunReconciler(failed) })
		group.Go(func() error { return a.payments.RunInbox(failed) })
		group.Go(func() error { return a.orders.RunExpiry(failed) })
		group.Go(func() error { return a.runRetention(failed) })
	}
	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	begun := time.Now()
	close(a.draining)
	if ctx.Err() != nil {
		a.awaitBalancer(failed)
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	for i := len(servers) - 1; i >= 0; i-- {
		if err := servers[i].Shutdown(drain); err != nil {
			a.log.WarnContext(ctx, "requests were still running at the end of the drain", "error", err)
			_ = servers[i].Close()
		}
	}
	a.payments.Wait(drain)
	stopWork()
	err = group.Wait()
	a.log.InfoContext(ctx, "stopped", "drain", time.Since(begun).Round(time.Millisecond))
	return err
}

// awaitBalancer serves on for a while after the stop signal: /readyz answers 503 by now, and each
// answer ends its connection, so a load balancer sends its requests elsewhere before the listener
// closes.
func (a *App) awaitBalancer(ctx context.Context) {
	a.log.InfoContext(ctx, "draining", "delay", a.config.drainDelay())
	select {
	case <-time.After(a.config.drainDelay()):
	case <-ctx.Done():
	}
}

// record runs the recorder of stopped duplicates until stop is called. Call stop after everything
// else has ended.
func (a *App) record(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.recorder.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// serve serves on the listener. Its timeouts bound what a slow or hostile client can hold open.
func (a *App) serve(group *errgroup.Group, listener net.Listener, handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:           a.closeWhileDraining(handler),
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", listener.Addr(), err)
		}
		return nil
	})
	return server
}
