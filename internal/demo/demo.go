// Package demo runs the whole shop on one machine: Postgres from this machine's programs, Redis,
// NATS, a simulated payment provider and a mailbox in this process, and a node of the shop with a
// few products.
package demo

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/demo/embedded"
	"github.com/onceshop/onceshop/internal/demo/psp"
	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// What a data folder holds. `--fresh` removes these and nothing else.
const (
	postgresDir = "postgres"
	natsDir     = "nats"
	mailboxDir  = "mailbox"
	pspLog      = "provider.jsonl"
	secretsFile = "secrets.json"
	schemaFile  = "schema.json"
)

// stopTimeout is how long the database may take to shut down in order.
const stopTimeout = 10 * time.Second

// demo is the whole shop on one machine. Its servers stop in the reverse order of their start.
type demo struct {
	config app.Config
	out    io.Writer
	log    *slog.Logger
	group  *errgroup.Group
	stops  []func()
}

// Run starts every server that the environment does not name, migrates, seeds, prints the addresses
// on out, and serves until ctx ends. With fresh, it first removes the data of earlier runs.
func Run(ctx context.Context, config app.Config, fresh bool, out io.Writer, log *slog.Logger) error {
	begin := time.Now()
	config.Demo = true
	lock, err := pglocal.LockFolder(config.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if fresh {
		for _, name := range []string{
			postgresDir, natsDir, mailboxDir, pspLog, secretsFile, schemaFile, app.RunningFile,
		} {
			if err := os.RemoveAll(filepath.Join(config.DataDir, name)); err != nil {
				return fmt.Errorf("start over: %w", err)
			}
		}
	}
	if config.DatabaseURL == "" {
		if err := checkSchema(config.DataDir); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "onceshop demo, data in %s\n\n", config.DataDir)
	servers, ctx := errgroup.WithContext(ctx)
	d := &demo{config: config, out: out, log: log, group: servers}
	err = d.run(ctx, begin)
	for i := len(d.stops) - 1; i >= 0; i-- {
		d.stops[i]()
	}
	return errors.Join(err, servers.Wait())
}

func (d *demo) run(ctx context.Context, begin time.Time) error {
	web, err := d.config.ListenWeb()
	if err != nil {
		return err
	}
	defer web.Close()
	ops, err := d.config.ListenOps()
	if err != nil {
		return err
	}
	defer ops.Close()
	if d.config.PublicURL == "" {
		d.config.PublicURL = "http://" + web.Addr().String()
	}
	if err := d.startServers(ctx, "http://"+web.Addr().String()+app.WebhookPath); err != nil {
		return err
	}
	a, err := app.New(ctx, d.config, app.Everything, d.log)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := d.step("schema and products", func() error { return seed(ctx, d.config.DatabaseURL) }); err != nil {
		return err
	}
	running := app.Running{
		Pid: os.Getpid(), Shop: "http://" + web.Addr().String(), Ops: "http://" + ops.Addr().String(),
		Provider: d.config.PSPURL, Mailbox: d.config.MailboxAddr, DatabaseURL: d.config.DatabaseURL,
		RedisURL: d.config.RedisURL, NATSURL: d.config.NATSURL, SMTPURL: d.config.SMTPURL,
	}
	path := filepath.Join(d.config.DataDir, app.RunningFile)
	if err := writePrivate(path, running); err != nil {
		return err
	}
	defer os.Remove(path) //nolint:errcheck // a stale file is recognized by its process
	fmt.Fprintf(d.out, "\nReady in %.1f s.\n%s", time.Since(begin).Seconds(), welcome(running))
	err = a.Run(ctx, web, ops)
	fmt.Fprintln(d.out, "\nStopping.")
	return err
}

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
		{"NATS JetStream (in process)", d.config.NATSURL, d.startNATS},
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
	server, err := embedded.StartNATS(filepath.Join(d.config.DataDir, natsDir))
	if err != nil {
		return err
	}
	d.stops = append(d.stops, server.Stop)
	d.config.NATSURL = server.URL()
	return nil
}

func (d *demo) startMailbox(ctx context.Context) error {
	return d.background(ctx, func(ctx context.Context, ready func()) error {
		dir := filepath.Join(d.config.DataDir, mailboxDir)
		return ServeMailbox(ctx, d.config, dir, d.log, func(smtp, page net.Addr) {
			d.config.SMTPURL, d.config.MailboxAddr = "smtp://"+smtp.String()+"?tls=none", "http://"+page.String()
			ready()
		})
	})
}

func (d *demo) startProvider(ctx context.Context, webhookURL string) error {
	provider := psp.Config{
		LogPath: filepath.Join(d.config.DataDir, pspLog), Logger: d.log,
		WebhookURL: webhookURL, WebhookSecret: d.config.PSPWebhookSecret,
	}
	return d.background(ctx, func(ctx context.Context, ready func()) error {
		return ServeProvider(ctx, d.config, provider, func(at net.Addr) {
			d.config.PSPURL = "http://" + at.String()
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

// welcome is what a newcomer reads once everything runs.
func welcome(r app.Running) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
  Shop        %s
  Provider    %s
  Mailbox     %s
  Operations  %s/metrics

Order a mug. Send it twice: the second answer is the first one, byte for byte.

  curl -i %s/v1/orders \
    -H 'Authorization: Bearer demo-alice' -H 'Idempotency-Key: my-first-order' \
    -d '{"email":"alice@example.com","lines":[{"sku":"MUG-ONCE","quantity":1}]}'

Ctrl-C stops everything and keeps the data; --fresh starts over.

`, r.Shop, r.Provider, r.Mailbox, r.Ops, r.Shop)
	return b.String()
}

// secrets are made once and kept with the data that they protect.
type secrets struct {
	Shop     string `json:"shop"`
	Webhook  string `json:"webhook"`
	Database string `json:"database"`
}

func loadSecrets(path string) (secrets, error) {
	var s secrets
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &s); err != nil {
			return s, fmt.Errorf("%s is damaged; `shop demo --fresh` starts over: %w", path, err)
		}
		return s, nil
	case !errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("read the demo's secrets: %w", err)
	}
	s = secrets{Shop: rand.Text() + rand.Text(), Database: rand.Text()}
	s.Webhook = "whsec_" + base64.StdEncoding.EncodeToString([]byte(rand.Text()+rand.Text()))
	return s, writePrivate(path, s)
}

// writePrivate replaces the file as a whole, readable by its owner only.
func writePrivate(path string, content any) error {
	data, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return os.Rename(path+".new", path)
}
