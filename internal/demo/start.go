package demo

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/onceshop/onceshop/internal/demo/embedded"
	"github.com/onceshop/onceshop/internal/demo/psp"
	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// startServers starts what the environment does not name, and writes the addresses into the
// configuration.
func (d *demo) startServers(ctx context.Context, webhookURL string) error {
	secrets, err := loadSecrets(filepath.Join(d.config.DataDir, secretsFile))
	if err != nil {
		return err
	}
	if d.config.Secret == "" {
		d.config.Secret = secrets.Shop
	}
	if d.config.PSPWebhookSecret == "" {
		d.config.PSPWebhookSecret = secrets.Webhook
	}
	steps := []struct {
		name, given string
		start       func() error
	}{
		{"Postgres", d.config.DatabaseURL, func() error { return d.startPostgres(ctx, secrets.Database) }},
		{"Redis (in process)", d.config.RedisURL, d.startRedis},
		{"NATS JetStream (in process)", d.config.BrokerURL, d.startNATS},
		{"mailbox", d.config.SMTPURL, func() error { return d.startMailbox(ctx) }},
		{
			"payment provider", cmp.Or(d.config.PSPURL, d.config.StripeSecretKey),
			func() error { return d.startProvider(ctx, webhookURL) },
		},
	}
	for _, s := range steps {
		if s.given != "" {
			fmt.Fprintf(d.out, "  %-28s as named in the environment\n", s.name)
			continue
		}
		if err := d.step(s.name, s.start); err != nil {
			return err
		}
	}
	return nil
}

// step shows what is being started and how long it took.
func (d *demo) step(name string, run func() error) error {
	begin := time.Now()
	fmt.Fprintf(d.out, "  %-28s ", name)
	if err := run(); err != nil {
		fmt.Fprintln(d.out, "failed")
		return err
	}
	fmt.Fprintf(d.out, "%.1f s\n", time.Since(begin).Seconds())
	return nil
}

func (d *demo) startPostgres(ctx context.Context, password string) error {
	server, err := pglocal.Start(ctx, pglocal.Config{
		Dir: filepath.Join(d.config.DataDir, postgresDir), Password: password,
		Progress: func(doing string) { fmt.Fprintf(d.out, "%s … ", doing) },
	})
	if err != nil {
		return err
	}
	stopping := make(chan struct{})
	d.group.Go(func() error {
		<-server.Done()
		select {
		case <-stopping:
			return nil
		default:
			return fmt.Errorf("the database server has ended by itself; its log is %s",
				filepath.Join(d.config.DataDir, postgresDir, "postgres.log"))
		}
	})
	d.stops = append(d.stops, func() {
		close(stopping)
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := server.Stop(stop); err != nil {
			d.log.Error("stop Postgres", "error", err)
		}
	})
	d.config.DatabaseURL = server.URL()
	return nil
}

func (d *demo) startRedis() error {
	server, err := embedded.StartRedis()
	if err != nil {
		return err
	}
	d.stops = append(d.stops, server.Stop)
	d.config.RedisURL = server.URL()
	return nil
}

func (d *demo) startNATS() error {
	dir := filepath.Join(d.config.DataDir, natsDir)
	server, err := embedded.StartNATS(dir)
	if err != nil {
		return err
	}
	var mu sync.Mutex // of server
	d.stops = append(d.stops, func() {
		mu.Lock()
		defer mu.Unlock()
		server.Stop()
	})
	d.restartBroker = func() error {
		mu.Lock()
		defer mu.Unlock()
		server.Stop()
		started, err := embedded.StartNATSAt(dir, server.URL())
		if err == nil {
			server = started
		}
		return err
	}
	d.config.BrokerURL = server.URL()
	return nil
}

func (d *demo) startMailbox(ctx context.Context) error {
	return d.background(ctx, func(ctx context.Context, ready func()) error {
		dir := filepath.Join(d.config.DataDir, mailboxDir)
		return ServeMailbox(ctx, d.config, dir, d.bar, d.log, func(smtp, page net.Addr) {
			d.config.SMTPURL, d.config.MailboxAddr = "smtp://"+smtp.String()+"?tls=none", visit(page)
			ready()
		})
	})
}

func (d *demo) startProvider(ctx context.Context, webhookURL string) error {
	provider := psp.Config{
		LogPath: filepath.Join(d.config.DataDir, pspLog), Logger: d.log,
		WebhookURL: webhookURL, WebhookSecret: d.config.PSPWebhookSecret, Bar: d.bar,
	}
	return d.background(ctx, func(ctx context.Context, ready func()) error {
		return ServeProvider(ctx, d.config, provider, func(at net.Addr) {
			d.config.PSPURL = visit(at)
			ready()
		})
	})
}

// background runs a server beside the shop and returns when it is ready or has failed. It outlives
// ctx until its turn to stop comes.
func (d *demo) background(ctx context.Context, serve func(ctx context.Context, ready func()) error) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ready, done := make(chan struct{}), make(chan struct{})
	var failure error
	d.group.Go(func() error {
		defer close(done)
		failure = serve(own, func() { close(ready) })
		return failure
	})
	d.stops = append(d.stops, func() {
		cancel()
		<-done
	})
	select {
	case <-ready:
		return nil
	case <-done:
		return failure
	}
}
