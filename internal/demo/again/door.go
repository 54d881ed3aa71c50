package again

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

const (
	// pressTimeout bounds what one press does.
	pressTimeout = 20 * time.Second
	maxAnswer    = 64 << 10
	// tokenFor is how long a token is lent. Orders are retried with a fresh one before it ends.
	tokenFor = 10 * time.Minute
	// tokenScheme begins every lent token, and prefixLength is of the part that people name it by.
	tokenScheme  = "demo_"
	prefixLength = len(tokenScheme) + 8
)

// newClient keeps as many connections as a press sends requests.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = fifty
	return &http.Client{Transport: transport, Timeout: pressTimeout}
}

// request is a request to the shop's front door.
type request struct {
	path   string
	header http.Header
	body   []byte
}

// asCustomer returns a request to the JSON API with an idempotency key. The panel lends itself a
// token: a guest has none.
func (p *panel) asCustomer(ctx context.Context, customer uuid.UUID, path, key string, body any) (request, error) {
	token, err := p.token(ctx, customer)
	if err != nil {
		return request{}, err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return request{}, fmt.Errorf("encode the request: %w", err)
	}
	return request{path, http.Header{
		"Authorization":   {"Bearer " + token},
		"Idempotency-Key": {key},
		"Content-Type":    {"application/json"},
	}, text}, nil
}

func (p *panel) token(ctx context.Context, customer uuid.UUID) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.tokens[customer]; time.Until(known.until) > pressTimeout {
		return known.token, nil
	}
	token, err := p.lend(ctx, customer)
	if err != nil {
		return "", err
	}
	if len(p.tokens) >= keepAtMost {
		clear(p.tokens)
	}
	p.tokens[customer] = lent{token, time.Now().Add(tokenFor)}
	return token, nil
}

// lend adds a token for a customer, who may be a guest. It is marked as the demo's: `shop serve`
// does not accept it.
func (p *panel) lend(ctx context.Context, customer uuid.UUID) (string, error) {
	token := tokenScheme + rand.Text()
	hash := sha256.Sum256([]byte(token))
	_, err := p.pool.Exec(ctx, `
		INSERT INTO api_tokens (hash, customer_id, demo, prefix, expires_at)
		VALUES ($1, $2, true, $3, now() + $4::interval)`, hash[:], customer, token[:prefixLength], tokenFor)
	if err != nil {
		return "", fmt.Errorf("lend a token: %w", err)
	}
	return token, nil
}

// asProvider returns a webhook, signed as the provider signs it.
func asProvider(secret, path, id string, payload []byte) (request, error) {
	now := time.Now()
	signature, err := psp.Sign(secret, id, now, payload)
	if err != nil {
		return request{}, fmt.Errorf("sign the event: %w", err)
	}
	return request{path, http.Header{
		"Content-Type":      {"application/json"},
		"Webhook-Id":        {id},
		"Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
		"Webhook-Signature": {signature},
	}, payload}, nil
}

// sendAll sends the requests at once, from a start gate, in turn to all nodes. It returns the
// answers, equal ones together, in the order of the requests.
func (p *panel) sendAll(ctx context.Context, nodes []string, requests ...request) ([]answers, error) {
	gate := make(chan struct{})
	got, errs := make([]answers, len(requests)), make([]error, len(requests))
	var running sync.WaitGroup
	for i, r := range requests {
		running.Go(func() {
			<-gate
			got[i], errs[i] = p.send(ctx, nodes[i%len(nodes)], r)
		})
	}
	close(gate)
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	var together []answers
	at := make(map[answers]int)
	for _, one := range got {
		i, known := at[one]
		if !known {
			i = len(together)
			at[one] = i
			together = append(together, one)
			together[i].Times = 0
		}
		together[i].Times++
	}
	return together, nil
}

// send makes one request and returns its answer, which counts once.
func (p *panel) send(ctx context.Context, node string, r request) (answers, error) {
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, node+r.path, bytes.NewReader(r.body))
	if err != nil {
		return answers{}, fmt.Errorf("make the request: %w", err)
	}
	post.Header = r.header.Clone()
	response, err := p.client.Do(post)
	if err != nil {
		return answers{}, fmt.Errorf("ask the shop: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return answers{}, fmt.Errorf("read the shop's answer: %w", err)
	}
	var problem struct{ Code string }
	if response.StatusCode >= http.StatusBadRequest {
		_ = json.Unmarshal(body, &problem) // an answer without a code shows its status
	}
	return answers{Times: 1, Status: response.StatusCode, Code: problem.Code,
		Replayed: response.Header.Get("Idempotent-Replayed") == "true"}, nil
}
