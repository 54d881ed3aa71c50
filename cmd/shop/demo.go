package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/demo"
	"github.com/onceshop/onceshop/internal/demo/psp"
)

// demoCommands are the commands of the demo wing. Deleting internal/demo and this file removes the
// wing.
type demoCommands struct {
	Demo    demoCommand    `cmd:"" help:"Run the whole shop on this machine, with every server it needs."`
	PSP     pspCommand     `cmd:"" name:"psp" help:"Run only the simulated payment provider."`
	Mailbox mailboxCommand `cmd:"" help:"Run only the mail sink: SMTP, and a page that lists what arrived."`
	Node    nodeCommand    `cmd:"" hidden:"" help:"A node of the demo, on the servers of the environment."`
	NATS    natsCommand    `cmd:"" name:"nats" hidden:"" help:"A NATS server with JetStream on BROKER_URL."`
}

func init() {
	wings = append(wings, wing{commands: func() any { return &demoCommands{} }})
	demoServers.Redis, demoServers.NATS = demo.StartRedis, demo.StartNATS
	demoServers.Provider, demoServers.Mailbox = demo.StartProvider, demo.StartMailbox
}

type demoCommand struct {
	Fresh   bool `help:"Remove the data of earlier runs first."`
	Nodes   int  `default:"1" help:"Run this many nodes of the shop, on one database."`
	Verbose bool `short:"v" help:"Log every request."`
}

func (c *demoCommand) Run(p *program) error {
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level}))
	var keys io.Reader
	if app.IsTerminal(os.Stdin) && app.IsTerminal(p.stdout) {
		keys = os.Stdin
	}
	return demo.Run(p.ctx, p.config, c.Fresh, c.Nodes, keys, p.stdout, log)
}

// nodeCommand runs the node that the demo kills.
type nodeCommand struct{}

func (nodeCommand) Run(p *program) error { return demo.ServeNode(p.ctx, p.config, p.logger()) }

type pspCommand struct {
	WebhookURL string        `name:"webhook-url" placeholder:"URL" help:"Send signed events here (PSP_WEBHOOK_SECRET)."`
	Log        string        `type:"path" placeholder:"FILE" help:"Keep captures and refunds here. Else in memory."`
	KeyTTL     time.Duration `name:"key-ttl" default:"24h" help:"How long idempotency keys are remembered."`
	Slow       time.Duration `default:"3s" help:"How long the payment method pm_slow delays its answer."`
}

func (c *pspCommand) Run(p *program) error {
	provider := psp.Config{
		LogPath: c.Log, KeyTTL: c.KeyTTL, Slow: c.Slow, Logger: p.logger(),
		WebhookURL: c.WebhookURL, WebhookSecret: p.config.PSPWebhookSecret,
	}
	return demo.ServeProvider(p.ctx, p.config, provider, func(at net.Addr) {
		fmt.Fprintf(p.stdout, "Payment provider on http://%s\n", at)
	})
}

type mailboxCommand struct {
	Dir string `type:"path" placeholder:"FOLDER" help:"Keep the messages here. Else in memory."`
}

func (c *mailboxCommand) Run(p *program) error {
	return demo.ServeMailbox(p.ctx, p.config, c.Dir, nil, p.logger(), func(smtp, page net.Addr) {
		fmt.Fprintf(p.stdout, "SMTP on %s, page on http://%s\n", smtp, page)
	})
}

// natsCommand runs the broker of `shop torture`.
type natsCommand struct {
	Dir string `type:"path" required:"" placeholder:"FOLDER" help:"Where the streams live."`
}

func (c *natsCommand) Run(p *program) error { return demo.ServeBroker(p.ctx, p.config, c.Dir) }
