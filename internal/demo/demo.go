// Package demo runs the whole shop on one machine: Postgres from this machine's programs, Redis,
// NATS, a simulated payment provider and a mailbox in this process, and a node of the shop with a
// few products.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/demo/again"
	"github.com/onceshop/onceshop/internal/demo/bar"
	"github.com/onceshop/onceshop/internal/demo/restock"
	"github.com/onceshop/onceshop/internal/demo/twice"
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
	bar    *bar.Bar
	in     io.Reader // nil without a person
	out    io.Writer
	log    *slog.Logger
	group  *errgroup.Group
	stops  []func()
	// restartBroker is nil if the broker is not the demo's own.
	restartBroker func() error
	// nodes are the base URLs of the shop's nodes.
	nodes []string
}

// Run starts every server that the environment does not name, migrates, seeds, starts this many
// nodes of the shop, prints the addresses on out, and serves until ctx ends. With fresh, it first
// removes the data of earlier runs. It takes keys from in, unless in is nil.
func Run(ctx context.Context, config app.Config, fresh bool, nodes int, in io.Reader, out io.Writer,
	log *slog.Logger) error {
	begin := time.Now()
	config.Demo = true
	shown := bar.New(config.Sections)
	config.Sections = append(config.Sections, twice.Section(), restock.Section(), shown.Section())
	if err := errors.Join(config.RequireDataDir(), config.Valid()); err != nil {
		return err
	}
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
	if err := checkFolder(config.DataDir); err != nil {
		return err
	}
	if config.DatabaseURL == "" {
		if err := checkSchema(config.DataDir); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "onceshop demo, data in %s\n\n", config.DataDir)
	servers, ctx := errgroup.WithContext(ctx)
	d := &demo{config: config, bar: shown, in: in, out: out, log: log, group: servers}
	err = d.run(ctx, nodes, begin)
	for i := len(d.stops) - 1; i >= 0; i-- {
		d.stops[i]()
	}
	return errors.Join(err, servers.Wait())
}

func (d *demo) run(ctx context.Context, nodes int, begin time.Time) error {
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
		d.config.PublicURL, d.config.AllowHTTP = visit(web.Addr()), true
	}
	if err := d.startServers(ctx, visit(web.Addr())+app.WebhookPath); err != nil {
		return err
	}
	d.nodes = []string{visit(web.Addr())}
	d.config.Sections = append(d.config.Sections, again.Section(func() again.Servers {
		return again.Servers{Nodes: d.nodes, ProviderURL: d.config.PSPURL,
			MailboxURL: d.config.MailboxAddr, WebhookSecret: d.config.PSPWebhookSecret, RestartBroker: d.restartBroker}
	}))
	a, err := app.New(ctx, d.config, app.Everything, d.log)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := d.step("schema and products", func() error { return seed(ctx, d.config.DatabaseURL) }); err != nil {
		return err
	}
	if err := d.startNodes(ctx, nodes); err != nil {
		return err
	}
	running := app.Running{
		Pid: os.Getpid(), Shop: visit(web.Addr()), Ops: visit(ops.Addr()),
		Provider: d.config.PSPURL, Mailbox: d.config.MailboxAddr, DatabaseURL: d.config.DatabaseURL,
		RedisURL: d.config.RedisURL, NATSURL: d.config.BrokerURL, SMTPURL: d.config.SMTPURL,
	}
	d.bar.Show(running)
	path := filepath.Join(d.config.DataDir, app.RunningFile)
	if err := writePrivate(path, running); err != nil {
		return err
	}
	defer os.Remove(path) //nolint:errcheck // a stale file is recognized by its process
	fmt.Fprintf(d.out, "\nReady in %.1f s.\n%s", time.Since(begin).Seconds(), welcome(running))
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	if d.in != nil {
		go d.takeKeys(ctx, d.in, running, quit) // a read from a terminal ends with the program
	}
	err = a.Run(ctx, web, ops)
	fmt.Fprintln(d.out, "\nStopping.")
	return err
}

// visit returns the URL of an address for this machine.
func visit(at net.Addr) string {
	if tcp, ok := at.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return "http://localhost:" + strconv.Itoa(tcp.Port)
	}
	return "http://" + at.String()
}

// welcome is what a newcomer reads once everything runs.
func welcome(r app.Running) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
  Shop        %[1]s
  Lab         %[1]s/lab
  Admin       %[1]s/admin
  API         %[1]s/docs
  Provider    %[2]s
  Mailbox     %[3]s
  Operations  %[4]s/metrics

  Tokens      demo-alice, demo-bob (customers), demo-admin (admin)

Order a mug. Send it twice: the second answer is the first one, byte for byte.

  curl -i %[1]s/v1/orders \
    -H 'Authorization: Bearer demo-alice' -H 'Idempotency-Key: my-first-order' \
    -d '{"email":"alice@example.com","lines":[{"sku":"MUG-ONCE","quantity":1}]}'

Ctrl-C stops everything and keeps the data; --fresh starts over.

`, r.Shop, r.Provider, r.Mailbox, r.Ops)
	return b.String()
}
