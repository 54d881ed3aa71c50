package torture

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What happens at the provider without the shop: buyers who are asked by their bank decide there,
// and somebody gives money back from the provider's own pages.

// decide lets the buyer of a charge that requires an action approve it, refuse it, or leave. Who
// has left decides when the run heals: an order would wait longer than that for its end.
func (c *client) decide(ctx context.Context, action string) {
	if dice := c.random.IntN(3); dice < 2 {
		c.visit(ctx, action, []string{"approve", "refuse"}[dice])
	}
}

// visit presses a button of the bank's page.
func (c *client) visit(ctx context.Context, action, decision string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, action,
		strings.NewReader(url.Values{"decision": {decision}}.Encode()))
	if err != nil {
		return
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if status, _, _, err := c.do(request); err == nil && status == http.StatusSeeOther {
		c.run.count.decisions.Add(1)
	}
}

// decideAll lets every buyer decide who is still asked. Some were never told where: their answers
// were lost.
func (r *run) decideAll(ctx context.Context) error {
	rows, err := r.servers.postgres.direct().Query(ctx, "SELECT action_url FROM charges WHERE action_url IS NOT NULL")
	if err != nil {
		return fmt.Errorf("read where buyers are asked: %w", err)
	}
	actions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read where buyers are asked: %w", err)
	}
	c := r.newClient(2 * clients)
	defer c.http.CloseIdleConnections()
	for i, action := range actions {
		c.visit(ctx, action, []string{"approve", "refuse"}[i%2])
	}
	return nil
}

// giveBackOutside gives back a small part of a charge at the provider, as from its dashboard. The
// provider may refuse, or be away.
func (c *client) giveBackOutside(ctx context.Context) {
	w := &c.run.world
	w.mu.Lock()
	if len(w.charged) == 0 {
		w.mu.Unlock()
		return
	}
	charge := w.charged[max(0, len(w.charged)-1-int(c.zipf.Uint64()))] //nolint:gosec // at most 5000
	w.mu.Unlock()
	provider := "http://" + c.run.servers.psp.address
	var held struct {
		Captures []struct{ ID, Status string }
	}
	if err := c.ask(ctx, http.MethodGet, provider+"/v1/captures?reference="+charge.id, "", &held); err != nil ||
		len(held.Captures) == 0 {
		return
	}
	body := fmt.Sprintf(`{"capture_id":%q,"amount":%d}`, held.Captures[0].ID, 1+c.random.Int64N(1+charge.total/4))
	var made struct{ Status string }
	if err := c.ask(ctx, http.MethodPost, provider+"/v1/refunds", body, &made); err == nil && made.Status != "" {
		c.run.count.outside.Add(1)
	}
}

// ask sends a request to the provider.
func (c *client) ask(ctx context.Context, method, address, body string, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", fmt.Sprintf("outside-%x", c.random.Uint64()))
	answer, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(into)
}
