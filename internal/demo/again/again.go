// Package again is a panel on the order page of the demo: it sends what made the order once more,
// with the order's own keys and through the shop's front door, and counts the effects at the
// witnesses. The shop's own layers stop the twins; the panel knows nothing of them.
package again

import (
	"embed"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/web"
)

// path begins the addresses of the panel.
const path = "/again"

// Servers are what the panel knows of the demo. All but Nodes may be empty: a button whose server
// is not there explains itself.
type Servers struct {
	// Nodes are the base URLs of the shop's nodes.
	Nodes []string
	// ProviderURL and MailboxURL are the witnesses.
	ProviderURL, MailboxURL string
	// WebhookSecret signs the provider's events.
	WebhookSecret string
	// RestartBroker stops the broker and starts it again on the same address.
	RestartBroker func() error
}

// Section adds the panel to a node. The function servers is called for each press and each look.
func Section(servers func() Servers) app.Section {
	return app.Section{
		Section: web.Section{Path: path},
		Start: func(e *echo.Echo, shop *web.Web, node app.Node) func() {
			p := &panel{
				shop: shop, pool: node.Pool, broker: node.Broker, log: node.Log, servers: servers,
				client: newClient(), tokens: make(map[uuid.UUID]lent), results: make(map[uuid.UUID]result),
			}
			if node.RedisURL != "" {
				client, err := redisclient.Open(node.RedisURL)
				if err != nil { // the node opened one from the same address
					panic(err)
				}
				p.redis = client
			}
			assets.Register(e)
			e.POST(path+"/:id", p.press, web.Public()...)
			shop.Panel = &web.OrderPanel{
				Style: assets.Address("panel.css"), Script: assets.Address("panel.js"), Render: p.render,
			}
			return p.close
		},
	}
}

// panel is the panel of one node.
type panel struct {
	shop    *web.Web
	pool    *pgxpool.Pool
	redis   redisclient.Client // nil on a node without workers
	broker  broker.Broker      // or nil
	log     *slog.Logger
	servers func() Servers
	client  *http.Client

	mu      sync.Mutex
	tokens  map[uuid.UUID]lent   // by customer
	results map[uuid.UUID]result // the latest, by order
}

// keepAtMost bounds the tokens and the results. Beyond, all are forgotten.
const keepAtMost = 1000

func (p *panel) close() {
	p.client.CloseIdleConnections()
	if p.redis != nil {
		_ = p.redis.Close()
	}
}

// lent is a token that the panel acts with for a customer.
type lent struct {
	token string
	until time.Time
}

// result is what came of the latest press.
type result struct {
	Button  string
	Sent    int
	Answers []answers
	Note    string
}

// answers are equal answers to one press.
type answers struct {
	Times    int
	Status   int
	Replayed bool
	Code     string
}

func (p *panel) keep(order uuid.UUID, r result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.results) >= keepAtMost {
		clear(p.results)
	}
	p.results[order] = r
}

func (p *panel) latest(order uuid.UUID) (result, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.results[order]
	return r, ok
}

//go:embed panel.html
var files embed.FS

//go:embed static
var staticFiles embed.FS

var assets = web.NewAssets(path, staticFiles, "static")
