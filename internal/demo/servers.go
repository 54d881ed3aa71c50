package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/demo/bar"
	"github.com/onceshop/onceshop/internal/demo/embedded"
	"github.com/onceshop/onceshop/internal/demo/mailbox"
	"github.com/onceshop/onceshop/internal/demo/psp"
)

// drainTimeout is how long requests in flight may take after the stop signal.
const drainTimeout = 10 * time.Second

// ServeProvider runs the simulated payment provider until ctx ends. It reports its address through
// ready.
func ServeProvider(ctx context.Context, config app.Config, provider psp.Config, ready func(net.Addr)) error {
	listener, err := app.Listen("SHOP_PSP_ADDR", config.PSPAddr, "127.0.0.1:8090")
	if err != nil {
		return err
	}
	server, err := psp.NewServer(provider)
	if err != nil {
		_ = listener.Close()
		return fmt.Errorf("start the payment provider: %w", err)
	}
	defer server.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return serveHTTP(ctx, listener, config.OwnHosts(bar.Static(server))) })
	ready(listener.Addr())
	return group.Wait()
}

// ServeMailbox runs the mail sink until ctx ends; with dir "" it keeps nothing. Its pages have the
// demo's bar, which may be nil. It reports its addresses, SMTP and page, through ready.
func ServeMailbox(
	ctx context.Context, config app.Config, dir string, demo *bar.Bar, log *slog.Logger,
	ready func(smtp, page net.Addr),
) error {
	box, err := mailbox.Open(dir, log)
	if err != nil {
		return fmt.Errorf("open the mailbox: %w", err)
	}
	smtp, err := app.Listen("SHOP_MAILBOX_SMTP_ADDR", config.MailboxSMTPAddr, "127.0.0.1:1025")
	if err != nil {
		return err
	}
	page, err := app.Listen("SHOP_MAILBOX_ADDR", config.MailboxAddr, "127.0.0.1:8025")
	if err != nil {
		_ = smtp.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return box.ServeSMTP(smtp) })
	group.Go(func() error { return serveHTTP(ctx, page, config.OwnHosts(bar.Static(box.Handler(demo)))) })
	group.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		return box.Shutdown(drain)
	})
	ready(smtp.Addr(), page.Addr())
	return group.Wait()
}

// ServeBroker runs a NATS server with JetStream on BROKER_URL until ctx ends.
func ServeBroker(ctx context.Context, config app.Config, dir string) error {
	broker, err := embedded.StartNATSAt(dir, config.BrokerURL)
	if err != nil {
		return err
	}
	<-ctx.Done()
	broker.Stop()
	return nil
}

// StartRedis starts an empty Redis in this process.
func StartRedis() (url string, stop func(), err error) {
	server, err := embedded.StartRedis()
	if err != nil {
		return "", nil, err
	}
	return server.URL(), server.Stop, nil
}

// StartNATS starts a NATS server with JetStream in this process. Its streams end with it.
func StartNATS() (url string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "onceshop-nats-")
	if err != nil {
		return "", nil, fmt.Errorf("make a folder for NATS: %w", err)
	}
	server, err := embedded.StartNATS(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return server.URL(), func() {
		server.Stop()
		_ = os.RemoveAll(dir)
	}, nil
}

// StartProvider starts a simulated payment provider in this process, on a free port. It keeps
// everything in memory and sends no webhooks.
func StartProvider() (url string, stop func(), err error) {
	config, provider := app.Config{PSPAddr: "127.0.0.1:0"}, psp.Config{Logger: slog.New(slog.DiscardHandler)}
	stop, err = start(func(ctx context.Context, ready func()) error {
		return ServeProvider(ctx, config, provider, func(at net.Addr) {
			url = "http://" + at.String()
			ready()
		})
	})
	return url, stop, err
}

// StartMailbox starts a mail sink in this process, on free ports. It keeps the mails in memory.
func StartMailbox() (smtpURL, pageURL string, stop func(), err error) {
	config := app.Config{MailboxSMTPAddr: "127.0.0.1:0", MailboxAddr: "127.0.0.1:0"}
	stop, err = start(func(ctx context.Context, ready func()) error {
		return ServeMailbox(ctx, config, "", nil, slog.New(slog.DiscardHandler), func(smtp, page net.Addr) {
			smtpURL, pageURL = "smtp://"+smtp.String()+"?tls=none", "http://"+page.String()
			ready()
		})
	})
	return smtpURL, pageURL, stop, err
}

// start runs a server beside its caller until stop is called. It returns when the server is ready
// or has failed.
func start(serve func(ctx context.Context, ready func()) error) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
		return func() {
			cancel()
			<-ended //nolint:errcheck // it was told to stop
		}, nil
	case err := <-ended:
		cancel()
		return nil, err
	}
}

// serveHTTP serves until ctx ends, then lets requests finish.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: time.Minute,
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if server.Shutdown(drain) != nil {
			_ = server.Close()
		}
	}()
	err := server.Serve(listener)
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return err
}
