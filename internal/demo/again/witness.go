package again

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
)

// witnessTimeout bounds a look at a witness, for which a page waits.
const witnessTimeout = 2 * time.Second

// score is what the witnesses count for an order. A negative count is of a witness that does not
// answer.
type score struct {
	Orders, Captures, Receipts int
}

// score asks the database, the provider and the mailbox.
func (p *panel) score(ctx context.Context, order uuid.UUID) (score, error) {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	s, servers := score{Captures: -1, Receipts: -1}, p.servers()
	err := p.pool.QueryRow(ctx, `
		SELECT count(*) FROM orders o JOIN orders mine USING (customer_id, idempotency_key) WHERE mine.id = $1`,
		order).Scan(&s.Orders)
	if err != nil {
		return s, fmt.Errorf("count the orders under the key: %w", err)
	}
	var provider struct {
		Captures []struct{ Status string }
	}
	if p.read(ctx, servers.ProviderURL, "/v1/captures?order_id="+order.String(), &provider) == nil {
		s.Captures = 0
		for _, capture := range provider.Captures {
			if capture.Status == "succeeded" {
				s.Captures++
			}
		}
	}
	// By Message-ID: other mails to the buyer do not count.
	query := url.QueryEscape("message-id:receipt." + order.String() + "@")
	var mailbox struct{ Messages []struct{ ID string } }
	if p.read(ctx, servers.MailboxURL, "/api/v1/search?query="+query, &mailbox) == nil {
		s.Receipts = len(mailbox.Messages)
	}
	return s, nil
}

var errNoWitness = errors.New("again: the witness has no address or does not answer")

func (p *panel) read(ctx context.Context, base, path string, into any) error {
	if base == "" {
		return errNoWitness
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s: %w", base, err)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask %s: %w", base, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errNoWitness
	}
	return json.NewDecoder(response.Body).Decode(into)
}
