package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	clients   = 64
	customers = 32
	// clientTimeout is shorter than the shop's longest work: some clients come again while the
	// first request runs.
	clientTimeout = 4 * time.Second
	// meanPause is what a client does between two intents. It bounds the load on a small machine.
	meanPause = 60 * time.Millisecond
	// mostTries is how often a client sends the same again. What stays unknown is asked at the end.
	mostTries = 12
)

// customer is a buyer; several clients act for each.
type customer struct {
	email, token string
	id           uuid.UUID
	admin        bool
	keys         int // the next one's number: different customers use the same keys
}

// world is what all clients know of each other's doings.
type world struct {
	mu        sync.Mutex
	customers []*customer
	admin     *customer
	intents   []*intent
	// unpaid and paid are orders and charges to go on with, the newest last.
	unpaid  []owned
	charged []owned
}

// owned is an object with its owner.
type owned struct {
	customer *customer
	id       string
	order    string
	total    int64
}

// client is one of those who use the shop, each with a way of its own that the seed decides.
type client struct {
	run    *run
	number int
	random *rand.Rand
	zipf   *rand.Zipf
	http   *http.Client
}

func (r *run) newClient(number int) *client {
	random := rand.New(rand.NewPCG(r.Seed, uint64(1000+number))) //nolint:gosec // replayed from the seed
	return &client{run: r, number: number, random: random, zipf: rand.NewZipf(random, 1.2, 4, 5000),
		http: &http.Client{Timeout: clientTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second}}}
}

// live does what a client does until ctx ends.
func (c *client) live(ctx context.Context) {
	defer c.http.CloseIdleConnections()
	var beside sync.WaitGroup
	defer beside.Wait()
	alongside := func(asked *intent) {
		random := rand.New(rand.NewPCG(c.random.Uint64(), 0)) //nolint:gosec // see newClient
		beside.Go(func() { c.insist(ctx, asked, 0, random) })
	}
	for sleep(ctx, time.Duration(c.random.ExpFloat64()*float64(meanPause))) {
		asked, variant := c.next()
		if asked == nil && c.random.IntN(2) == 0 {
			c.giveBackOutside(ctx)
			continue
		}
		if asked == nil {
			c.peep(ctx)
			continue
		}
		if variant == 0 && c.random.IntN(100) < 10 { // a double click, and each click meets another node
			alongside(asked)
		}
		if rival := c.rival(asked); rival != nil {
			alongside(rival)
		}
		c.insist(ctx, asked, variant, c.random)
	}
}

// next decides what to send next: an intent, in its own meaning or in another one. It returns nil
// if the client does something else instead.
func (c *client) next() (asked *intent, variant int) {
	w := &c.run.world
	w.mu.Lock()
	defer w.mu.Unlock()
	dice := c.random.IntN(100)
	switch {
	case dice < 30 && len(w.intents) > 0:
		return c.recent(), 0
	case dice < 35 && len(w.intents) > 0:
		if again := c.recent(); again.op != canceling {
			return again, 1 + c.random.IntN(3)
		}
		return nil, 0
	case dice < 45 && len(w.charged) > 0:
		return w.add(c.giveBack()), 0
	case dice < 48:
		return nil, 0
	case dice < 49:
		return w.add(c.deliver()), 0
	case dice < 72 && len(w.unpaid) > 0:
		return w.add(c.charge()), 0
	default:
		return w.add(c.place()), 0
	}
}

// recent picks an earlier intent, mostly one of the newest.
func (c *client) recent() *intent {
	all := c.run.world.intents
	return all[len(all)-1-int(c.zipf.Uint64())%len(all)] //nolint:gosec // at most 5000
}

func (w *world) add(i *intent) *intent {
	w.intents = append(w.intents, i)
	return i
}

func (c *client) intent(by *customer, op operation, path string, body any) *intent {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("torture: encode a request: %v", err))
	}
	by.keys++
	return &intent{customer: by, op: op, key: fmt.Sprintf("k%d", by.keys), path: path, body: encoded}
}

func (c *client) place() *intent {
	w := &c.run.world
	by := w.customers[c.random.IntN(len(w.customers))]
	var lines []map[string]any
	for range 1 + c.random.IntN(3) {
		sku := c.run.sku(int(c.zipf.Uint64())) //nolint:gosec // at most 5000
		lines = append(lines, map[string]any{"sku": sku, "quantity": 1 + c.random.IntN(3)})
	}
	return c.intent(by, placing, "/v1/orders", map[string]any{"email": by.email, "lines": lines})
}

// methods of payment, each as often as it is named.
var methods = []string{"pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_webhook_first",
	"pm_webhook_storm", "pm_declined",
	"pm_insufficient_funds", "pm_timeout_before_capture", "pm_timeout_after_capture", "pm_error_before_capture",
	"pm_error_after_capture", "pm_slow", "pm_timeout_late_webhook", "pm_requires_action", "pm_requires_action",
	"pm_refund_refused", "pm_refund_pending", "pm_refund_pending", "pm_refund_fails_later", "pm_disputed"}

func (c *client) charge() *intent {
	w := &c.run.world
	at := max(0, len(w.unpaid)-1-int(c.zipf.Uint64())) //nolint:gosec // at most 5000
	order := w.unpaid[at]
	if c.random.IntN(10) > 0 { // one in ten stays, for somebody with another key
		w.unpaid = slices.Delete(w.unpaid, at, at+1)
	}
	return c.intent(order.customer, charging, "/v1/orders/"+order.id+"/charges",
		map[string]any{"payment_method": methods[c.random.IntN(len(methods))]})
}

// rival pays for the order of a charge once more, under another key: the buyer has two tabs open.
// It is nil for anything but a charge, and for most of these.
func (c *client) rival(asked *intent) *intent {
	if asked.op != charging || c.random.IntN(5) > 0 {
		return nil
	}
	w := &c.run.world
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.add(c.intent(asked.customer, charging, asked.path,
		map[string]any{"payment_method": methods[c.random.IntN(len(methods))]}))
}

// giveBack refunds a charge or cancels an order.
func (c *client) giveBack() *intent {
	w := &c.run.world
	if c.random.IntN(2) == 0 && len(w.unpaid) > 0 {
		order := w.unpaid[c.random.IntN(len(w.unpaid))]
		return c.intent(order.customer, canceling, "/v1/orders/"+order.id+"/cancel", map[string]any{})
	}
	charge := w.charged[max(0, len(w.charged)-1-int(c.zipf.Uint64()))] //nolint:gosec // at most 5000
	if c.random.IntN(3) == 0 {
		return c.intent(charge.customer, canceling, "/v1/orders/"+charge.order+"/cancel", map[string]any{})
	}
	body := map[string]any{"reason": "torture"}
	if c.random.IntN(2) == 0 {
		body["amount"] = 1 + c.random.Int64N(charge.total)
	}
	return c.intent(w.admin, refunding, "/v1/charges/"+charge.id+"/refunds", body)
}

func (c *client) deliver() *intent {
	return c.intent(c.run.world.admin, delivering, "/v1/deliveries", map[string]any{"lines": []map[string]any{
		{"sku": c.run.sku(int(c.zipf.Uint64())), "quantity": 1 + c.random.IntN(20)}}}) //nolint:gosec // at most 5000
}

// insist sends the intent until its answer is final, as a client does that has to know.
func (c *client) insist(ctx context.Context, asked *intent, variant int, random *rand.Rand) {
	pause := 100 * time.Millisecond
	for range mostTries {
		answer := c.send(ctx, asked, variant, random)
		if ctx.Err() == nil && answer.action != "" {
			c.decide(ctx, answer.action)
		}
		if ctx.Err() != nil || !answer.retry() {
			c.run.learn(asked, answer)
			return
		}
		c.run.count.retries.Add(1)
		if !sleep(ctx, pause/2+time.Duration(random.Int64N(int64(pause)))) {
			return
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// send asks one of the nodes and records what comes back.
func (c *client) send(ctx context.Context, asked *intent, variant int, random *rand.Rand) (made call) {
	node := c.run.nodes[random.IntN(len(c.run.nodes))]
	made = call{client: c.number, variant: variant, at: c.run.now()}
	status, header, body, err := c.post(ctx, node, asked, variant, random)
	made.returned = c.run.now()
	if err == nil {
		made.read(status, header.Get("Idempotent-Replayed") == "true", body)
	}
	asked.record(made)
	c.run.count.answer(made)
	return made
}

func (c *client) post(ctx context.Context, node *node, asked *intent, variant int, random *rand.Rand) (int, http.Header,
	[]byte, error) {
	body := asked.body
	if variant > 0 {
		body = altered(asked, variant)
	} else if random.IntN(3) == 0 {
		body = spaced(body)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+node.front.address()+asked.path,
		bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	request.GetBody = nil // or net/http sends it again unheard
	request.Header.Set("Authorization", "Bearer "+asked.customer.token)
	request.Header.Set("Idempotency-Key", asked.key)
	request.Header.Set("Content-Type", "application/json")
	return c.do(request)
}

func (c *client) do(request *http.Request) (int, http.Header, []byte, error) {
	answer, err := c.http.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header, body, err
}

// spaced says the same in other bytes.
func spaced(body []byte) []byte {
	var out bytes.Buffer
	if json.Indent(&out, body, " ", "\t") != nil {
		return body
	}
	return out.Bytes()
}

// altered is another meaning for the key.
func altered(asked *intent, variant int) []byte {
	var body map[string]any
	if err := json.Unmarshal(asked.body, &body); err != nil {
		panic(fmt.Sprintf("torture: decode a request of ours: %v", err))
	}
	switch asked.op {
	case placing:
		body["email"] = fmt.Sprintf("other-%d.%s", variant, asked.customer.email)
	case charging:
		body["payment_method"] = fmt.Sprintf("pm_ok_%d", variant)
	case refunding:
		body["reason"] = fmt.Sprintf("another %d", variant)
	case delivering:
		body["lines"] = []map[string]any{{"sku": "PLENTY-0", "quantity": 100 + variant}}
	case canceling: // it has no body to alter
	}
	out, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("torture: encode a request: %v", err))
	}
	return out
}

// peep looks at somebody else's order, which must be as if it did not exist.
func (c *client) peep(ctx context.Context) {
	w := &c.run.world
	w.mu.Lock()
	var order owned
	if len(w.unpaid) > 0 {
		order = w.unpaid[c.random.IntN(len(w.unpaid))]
	}
	other := w.customers[c.random.IntN(len(w.customers))]
	w.mu.Unlock()
	if order.customer == nil || order.customer == other {
		return
	}
	node := c.run.nodes[c.random.IntN(len(c.run.nodes))]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+node.front.address()+"/v1/orders/"+order.id, nil)
	if err != nil {
		return
	}
	request.Header.Set("Authorization", "Bearer "+other.token)
	status, _, _, err := c.do(request)
	c.run.count.peeps.Add(1)
	if err == nil && status < 500 && status != http.StatusNotFound {
		c.run.violate("I14", order.id, fmt.Sprintf("%s was answered %d for an order of %s", other.email, status,
			order.customer.email))
	}
}

// learn lets all clients go on with what the first final answer has told.
func (r *run) learn(asked *intent, answer call) {
	declined := answer.code == "declined"
	if !declined && answer.status != http.StatusCreated || answer.variant != 0 {
		return
	}
	w := &r.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if asked.learned {
		return
	}
	asked.learned = true
	switch asked.op {
	case placing:
		w.unpaid = append(w.unpaid, owned{asked.customer, answer.id, answer.id, answer.total})
	case charging:
		order := strings.Split(asked.path, "/")[3]
		if declined { // another card may do
			w.unpaid = append(w.unpaid, owned{asked.customer, order, order, answer.total})
			return
		}
		w.charged = append(w.charged, owned{asked.customer, answer.id, order, answer.total})
	case refunding, canceling, delivering:
	}
}
