package main

import (
	"fmt"
	"net"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/demo/psp"
)

type pspCommand struct {
	WebhookURL string        `name:"webhook-url" placeholder:"URL" help:"Where events go, signed with PSP_WEBHOOK_SECRET."`
	Log        string        `type:"path" placeholder:"FILE" help:"Keep every capture and refund as a JSON line, and read them at the start. Without it, they end with the process."`
	KeyTTL     time.Duration `name:"key-ttl" default:"24h" help:"How long idempotency keys are remembered."`
}

func (c *pspCommand) Run(p *program) error {
	log := p.logger()
	provider := psp.Config{LogPath: c.Log, KeyTTL: c.KeyTTL, WebhookURL: c.WebhookURL, WebhookSecret: p.config.PSPWebhookSecret, Logger: log}
	return app.ServeProvider(p.ctx, p.config, provider, func(at net.Addr) {
		fmt.Fprintf(p.stdout, "Payment provider on http://%s\n", at)
	})
}
