package main

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/onceshop/onceshop/internal/demo"
	"github.com/onceshop/onceshop/internal/demo/psp"
)

// demoCommands are the commands of the demo wing. Deleting internal/demo and this file removes the
// wing.
type demoCommands struct {
	Demo    demoCommand    `cmd:"" help:"The whole shop on this machine, with every server it needs. Ctrl-C stops it."`
	PSP     pspCommand     `cmd:"" name:"psp" help:"The simulated payment provider alone."`
	Mailbox mailboxCommand `cmd:"" help:"The mail sink alone: SMTP, and a page that lists what arrived."`
	NATS    natsCommand    `cmd:"" name:"nats" hidden:"" help:"A NATS server with JetStream on NATS_URL."`
}

func init() {
	wings = append(wings, wing{commands: func() any { return &demoCommands{} }})
	demoServers.Redis, demoServers.NATS = demo.StartRedis, demo.StartNATS
	demoServers.Provider, demoServers.Mailbox = demo.StartProvider, demo.StartMailbox
}

type demoCommand struct {
	Fresh   bool `help:"Remove the data of earlier runs first."`
	Verbose bool `short:"v" help:"Log every request."`
}

func (c *demoCommand) Run(p *program) error {
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level}))
	return demo.Run(p.ctx, p.config, c.Fresh, p.stdout, log)
}

type pspCommand struct {
	WebhookURL string        `name:"webhook-url" placeholder:"URL" help:"Send signed events here (PSP_WEBHOOK_SECRET)."`
	Log        string        `type:"path" placeholder:"FILE" help:"Keep captures and refunds here (else in memory)."`
	KeyTTL     time.Duration `name:"key-ttl" default:"24h" help:"How long idempotency keys are remembered."`
	Slow       time.Duration `default:"3s" help:"How long the payment method pm_slow keeps its answer back."`
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
	Dir string `type:"path" placeholder:"FOLDER" help:"Keep the messages here. Without it, they end with the process."`
}

func (c *mailboxCommand) Run(p *program) error {
	return demo.ServeMailbox(p.ctx, p.config, c.Dir, p.logger(), func(smtp, page net.Addr) {
		fmt.Fprintf(p.stdout, "SMTP on %s, page on http://%s\n", smtp, page)
	})
}

// natsCommand runs the broker of `shop torture`.
type natsCommand struct {
	Dir string `type:"path" required:"" placeholder:"FOLDER" help:"Where the streams live."`
}

func (c *natsCommand) Run(p *program) error { return demo.ServeBroker(p.ctx, p.config, c.Dir) }
