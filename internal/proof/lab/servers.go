package lab

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/pg"
)

// The schemas: one with the shop's own migrations, one with the tables of the naive twins.
const (
	guardedSchema = "lab"
	naiveSchema   = "lab_naive"
)

// The lab's only product.
const (
	sku       = "LAB-MUG"
	currency  = "EUR"
	unitPrice = 1400
)

const (
	maxConns        = 8
	mailTimeout     = 5 * time.Second
	providerTimeout = 5 * time.Second
)

//go:embed naive*.sql
var naiveTables embed.FS

// servers are what the twins work with. Postgres, Redis and the broker are the shop's own. The
// payment provider and the mail server are the lab's, because the shop's may be real and the shop's
// books must not show what the lab did there.
type servers struct {
	// Guarded is a pool on the schema with the shop's migrations, Naive on the one with the naive
	// twins' tables.
	Guarded, Naive *pgxpool.Pool
	// Redis is shared with the shop: use keys that begin with "lab:" and the run's name, and
	// nothing that touches others.
	Redis redis.UniversalClient
	JS    jetstream.JetStream
	// ProviderURL is the base URL of the lab's own payment provider.
	ProviderURL string
	// PSP is a client of it.
	PSP *psp.Client
	// Mailer sends to the lab's own mail server.
	Mailer *notify.Mailer

	// races lets one twin at a time hold connections while it waits for others.
	races *semaphore.Weighted

	accounts   *accounts.Service
	mailboxURL string
	smtpAddr   string
	http       *http.Client
	log        *slog.Logger
	stops      []func()
}

func startServers(ctx context.Context, shop *pgxpool.Pool, redis redis.UniversalClient, js jetstream.JetStream,
	witnesses Witnesses, log *slog.Logger) (_ *servers, err error) {
	s := &servers{races: semaphore.NewWeighted(1), Redis: redis, JS: js, log: log,
		http: &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.openSchemas(ctx, shop); err != nil {
		return nil, err
	}
	if err := s.openLastStream(ctx); err != nil {
		return nil, err
	}
	return s, s.start(witnesses)
}

func (s *servers) close() {
	s.http.CloseIdleConnections()
	if s.PSP != nil {
		s.PSP.CloseIdleConnections()
	}
	for _, stop := range s.stops {
		stop()
	}
	for _, pool := range []*pgxpool.Pool{s.Guarded, s.Naive} {
		if pool != nil {
			pool.Close()
		}
	}
}

// openSchemas makes what is missing of both schemas. Rows of earlier runs do no harm: every run has
// names of its own.
func (s *servers) openSchemas(ctx context.Context, shop *pgxpool.Pool) error {
	const create = `SELECT pg_advisory_xact_lock(hashtextextended('onceshop lab', 0));
		CREATE SCHEMA IF NOT EXISTS ` + guardedSchema + `; CREATE SCHEMA IF NOT EXISTS ` + naiveSchema
	if _, err := shop.Exec(ctx, create); err != nil {
		return fmt.Errorf("create the lab's schemas: %w", err)
	}
	var err error
	if s.Guarded, err = openSchema(ctx, shop, guardedSchema); err != nil {
		return err
	}
	if s.Naive, err = openSchema(ctx, shop, naiveSchema); err != nil {
		return err
	}
	if _, err := pg.Migrate(ctx, s.Guarded); err != nil {
		return err
	}
	if err := s.createNaiveTables(ctx); err != nil {
		return err
	}
	s.accounts = accounts.New(s.Guarded, false)
	return s.stockUp(ctx)
}

func openSchema(ctx context.Context, shop *pgxpool.Pool, schema string) (*pgxpool.Pool, error) {
	config := shop.Config()
	config.MaxConns = maxConns
	config.ConnConfig.RuntimeParams["search_path"] = schema
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the schema %s: %w", schema, err)
	}
	return pool, nil
}

func (s *servers) createNaiveTables(ctx context.Context) error {
	files, err := fs.Glob(naiveTables, "*.sql")
	if err != nil {
		return fmt.Errorf("list the naive twins' tables: %w", err)
	}
	for _, name := range files {
		statements, err := naiveTables.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		// Two nodes that create the same table at once would collide in the catalog.
		const inTurn = "SELECT pg_advisory_xact_lock(hashtextextended('onceshop lab', 0));\n"
		if _, err := s.Naive.Exec(ctx, inTurn+string(statements)); err != nil {
			return fmt.Errorf("create the tables of %s: %w", name, err)
		}
	}
	return nil
}

// stockUp puts the lab's product on sale. A delivery is booked once, so a restart adds nothing.
func (s *servers) stockUp(ctx context.Context) error {
	shop := s.orders()
	mug := orders.Product{SKU: sku, Name: "Lab Mug", Description: "Bought by experiments only.", Currency: currency,
		UnitPrice: unitPrice}
	if err := shop.AddProduct(ctx, mug, 1); err != nil {
		return err
	}
	delivery := strings.NewReader("delivery_id,line,sku,quantity\nlab-opening,1," + sku + ",1000000\n")
	if _, err := shop.Import(ctx, delivery, "lab", false); err != nil {
		return fmt.Errorf("stock the lab: %w", err)
	}
	return nil
}

// orders is the shop's own service on the guarded schema.
func (s *servers) orders() *orders.Service {
	return orders.New(s.Guarded, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
}

// openLastStream makes a stream that stays. With the last stream of an account the broker removes
// the account's folder, and another that is being opened at that moment fails.
func (s *servers) openLastStream(ctx context.Context) error {
	config := jetstream.StreamConfig{Name: "LAB", Subjects: []string{"lab"}, MaxAge: time.Minute}
	if _, err := s.JS.CreateOrUpdateStream(ctx, config); err != nil {
		return fmt.Errorf("open the lab's stream: %w", err)
	}
	return nil
}

func (s *servers) start(witnesses Witnesses) error {
	address, stop, err := witnesses.Provider()
	if err != nil {
		return fmt.Errorf("start the lab's payment provider: %w", err)
	}
	s.stops = append(s.stops, stop)
	s.ProviderURL, s.PSP = address, psp.NewClient(address, providerTimeout)
	smtpURL, pageURL, stop, err := witnesses.Mailbox()
	if err != nil {
		return fmt.Errorf("start the lab's mail server: %w", err)
	}
	s.stops = append(s.stops, stop)
	smtp, err := url.Parse(smtpURL)
	if err != nil {
		return fmt.Errorf("use the lab's mail server: %w", err)
	}
	s.mailboxURL, s.smtpAddr = pageURL, smtp.Host
	if s.Mailer, err = notify.NewMailer(smtpURL, mailTimeout); err != nil {
		return fmt.Errorf("use the lab's mail server: %w", err)
	}
	return nil
}

// Captures is how often the provider took money for an order.
func (s *servers) Captures(ctx context.Context, orderID string) (int, error) {
	var answer struct{ Captures []json.RawMessage }
	err := s.getJSON(ctx, s.ProviderURL+"/v1/captures?order_id="+url.QueryEscape(orderID), &answer)
	return len(answer.Captures), err
}

// Mails is how many mails arrived for an address.
func (s *servers) Mails(ctx context.Context, to string) (int, error) {
	var answer struct{ Messages []json.RawMessage }
	err := s.getJSON(ctx, s.mailboxURL+"/api/v1/search?query="+url.QueryEscape("to:"+to), &answer)
	return len(answer.Messages), err
}

func (s *servers) getJSON(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask a witness: %w", err)
	}
	answer, err := s.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask a witness: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask a witness: %s", answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// Rows is a number that SQL finds in the tables of a twin.
func Rows(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) (n int, err error) {
	if err := pool.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count rows: %w", err)
	}
	return n, nil
}
