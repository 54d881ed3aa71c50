package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/crash"
)

const (
	// nodeCommand is the hidden command that runs ServeNode.
	nodeCommand = "node"
	// crashAt is the variable by which the proof kills a process at a crash point.
	crashAt = "SHOP_CRASH_AT"
	// nodePatience bounds each wait of killANode: for the node, for its end, and for the payment.
	nodePatience = time.Minute
)

// ServeNode runs another node of a demo, without workers, on the servers that the configuration
// names.
func ServeNode(ctx context.Context, config app.Config, log *slog.Logger) error {
	config.Demo, config.Sections = true, nil
	return app.Serve(ctx, config, app.OnlyWeb, log)
}

// killANode starts a second node, places an order there and pays for it. The node dies after the
// provider took the money, before anything records it. The buyer repeats the payment at the first
// node.
func (d *demo) killANode(ctx context.Context, running app.Running) error {
	if d.config.PSPURL == "" {
		return errors.New("only the simulated provider can be asked by a node that is killed")
	}
	node, at, err := d.startDoomed(ctx)
	if err != nil {
		return err
	}
	died := make(chan struct{})
	go func() { _ = node.Wait(); close(died) }()
	defer func() { _ = node.Process.Kill(); <-died }()
	buyer := buyer{http.Client{Timeout: nodePatience}}
	if err := until(ctx, func() bool { return buyer.ready(ctx, at) }); err != nil {
		return fmt.Errorf("the second node is not ready: %w", err)
	}
	fmt.Fprintf(d.out, "  A second node runs on %s. It takes an order and asks the provider for the money.\n", at)
	order := struct{ ID, Status string }{}
	key := uuid.NewString()
	if err := buyer.post(ctx, at+"/v1/orders", key, `{"email":"alice@example.com",`+
		`"lines":[{"sku":"PIN-KEY","quantity":1}]}`, &order); err != nil {
		return err
	}
	charge := "/v1/orders/" + order.ID + "/charges"
	const payment = `{"payment_method":"pm_ok"}`
	if err := buyer.post(ctx, at+charge, key, payment, &struct{}{}); err == nil {
		fmt.Fprintln(d.out, "  This program has no crash points, so the node is killed after its answer.")
		_ = node.Process.Kill()
	}
	select {
	case <-died:
	case <-time.After(nodePatience):
		return errors.New("the second node does not die")
	}
	fmt.Fprintf(d.out, "  It is dead, at %s: the provider has taken the money, and nothing records it.\n"+
		"  The buyer repeats the payment at the first node, with the same key, until it is final.\n",
		crash.ChargeCaptured)
	begin := time.Now()
	paid := func() bool {
		var answer struct{ Status string }
		return buyer.post(ctx, running.Shop+charge, key, payment, &answer) == nil && answer.Status == "succeeded"
	}
	if err := until(ctx, paid); err != nil {
		return fmt.Errorf("the payment is not final: %w", err)
	}
	fmt.Fprintf(d.out, "  Paid after %.0f s, once: %s/admin/orders/%s\n", time.Since(begin).Seconds(), running.Shop,
		order.ID)
	d.check(ctx)
	return nil
}

// startDoomed starts this program once more, as a node that dies after the provider's answer.
func (d *demo) startDoomed(ctx context.Context) (node *exec.Cmd, address string, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("find this program: %w", err)
	}
	web, err := app.Listen("SHOP_ADDR", "127.0.0.1:0", "")
	if err != nil {
		return nil, "", err
	}
	at := web.Addr().String()
	if err := web.Close(); err != nil { // the node listens there
		return nil, "", err
	}
	node = exec.CommandContext(ctx, program, nodeCommand) //nolint:gosec // this program
	c := d.config
	node.Env = append(os.Environ(), "SHOP_ADDR="+at, "SHOP_OPS_ADDR=127.0.0.1:0", "SHOP_URL="+c.PublicURL,
		"SHOP_SECRET="+c.Secret, "DATABASE_URL="+c.DatabaseURL, "REDIS_URL="+c.RedisURL, "BROKER_URL="+c.BrokerURL,
		"PSP_URL="+c.PSPURL, "PSP_WEBHOOK_SECRET="+c.PSPWebhookSecret, crashAt+"="+string(crash.ChargeCaptured))
	if err := node.Start(); err != nil {
		return nil, "", fmt.Errorf("start a second node: %w", err)
	}
	return node, "http://" + at, nil
}

// buyer is Alice, a customer of the demo.
type buyer struct{ client http.Client }

func (b *buyer) ready(ctx context.Context, at string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := b.client.Do(request)
	if err != nil {
		return false
	}
	return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
}

// post sends a request under the key and decodes its answer. An answer other than 2xx is an error.
func (b *buyer) post(ctx context.Context, address, key, body string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+accounts.DemoAlice)
	request.Header.Set("Idempotency-Key", key)
	answer, err := b.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("%s answered %s: %s", address, answer.Status, text)
	}
	return cmp.Or(err, json.Unmarshal(text, into))
}

// until asks several times a second, until done or the patience ends.
func until(ctx context.Context, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
	return nil
}
