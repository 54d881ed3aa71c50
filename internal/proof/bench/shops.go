package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
	"github.com/onceshop/onceshop/internal/timeline"
)

const (
	providerTimeout = 5 * time.Second
	replayBytes     = 64 << 20
	replayFor       = 10 * time.Minute
)

// bench is both shops, each with its tables, its provider and its HTTP server.
type bench struct {
	*schemas
	orders      *orders.Service
	naiveShop   *naiveShop
	ourServer   *server
	naiveServer *server
	// otherServer is a second node of ours on the same tables. Only the flash sale has it.
	otherServer *server
	providerURL string
	newProvider func() (url string, stop func(), err error)
	buyers      []buyer
	// placed are orders to replay, by buyer.
	placed [][]placed
	stops  []func()
}

// buyer is one customer of both shops, under one token. Each caller is one: they do not meet at
// their customer's row.
type buyer struct {
	token string
	email string
	id    uuid.UUID
	naive int64
}

func open(ctx context.Context, db *pgxpool.Pool, provider func() (url string, stop func(), err error),
	flashStock int64) (_ *bench, err error) {
	tables, err := openSchemas(ctx, db, flashStock)
	if err != nil {
		return nil, err
	}
	b := &bench{schemas: tables, newProvider: provider}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close(ctx))
		}
	}()
	if err := b.addBuyers(ctx); err != nil {
		return nil, err
	}
	if err := b.addNaiveBuyers(ctx); err != nil {
		return nil, err
	}
	if err := b.startNaive(ctx); err != nil {
		return nil, err
	}
	if err := b.startOurs(ctx); err != nil {
		return nil, err
	}
	// Both have orders before anybody measures: a plan that a session keeps is made for tables that
	// are in use.
	if err := errors.Join(b.placeForReplay(ctx), b.placeNaively(ctx)); err != nil {
		return nil, err
	}
	return b, b.settle(ctx)
}

// close stops the servers and drops the tables.
func (b *bench) close(ctx context.Context) error {
	b.stop()
	return b.drop(ctx)
}

func (b *bench) stop() {
	for i := len(b.stops) - 1; i >= 0; i-- {
		b.stops[i]()
	}
}

func (b *bench) addBuyers(ctx context.Context) error {
	known := accounts.New(b.ours, false)
	for n := range maxCallers {
		email := fmt.Sprintf("buyer-%d@example.com", n)
		token, err := known.IssueToken(ctx, email, false)
		if err != nil {
			return err
		}
		customer, err := known.Authenticate(ctx, token)
		if err != nil {
			return err
		}
		b.buyers = append(b.buyers, buyer{token: token, id: customer.ID, email: email})
	}
	return nil
}

// addNaiveBuyers makes the buyers customers of the naive shop too.
func (b *bench) addNaiveBuyers(ctx context.Context) error {
	for n, bought := range b.buyers {
		hash := sha256.Sum256([]byte(bought.token))
		err := b.naive.QueryRow(ctx, `WITH c AS (INSERT INTO customers (email) VALUES ($1) RETURNING id)
			INSERT INTO api_tokens (hash, customer_id) SELECT $2, id FROM c
				RETURNING customer_id`, bought.email, hash[:]).Scan(&b.buyers[n].naive)
		if err != nil {
			return fmt.Errorf("add a naive customer: %w", err)
		}
	}
	return nil
}

func (b *bench) startNaive(ctx context.Context) error {
	provider, _, err := b.startProvider()
	if err != nil {
		return err
	}
	b.naiveShop = &naiveShop{pool: b.naive, provider: provider}
	b.naiveServer, err = b.serve(ctx, naiveHandler(b.naiveShop))
	return err
}

func (b *bench) startOurs(ctx context.Context) error {
	provider, address, err := b.startProvider()
	if err != nil {
		return err
	}
	b.providerURL = address
	b.orders = orders.New(b.ours, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	if b.ourServer, err = b.startNode(ctx, b.ours, b.orders, provider); err != nil {
		return err
	}
	pool, err := openSchema(ctx, b.shop, oursSchema)
	if err != nil {
		return err
	}
	b.stops = append(b.stops, pool.Close)
	b.otherServer, err = b.startNode(ctx, pool,
		orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler)), provider)
	return err
}

var policy = payments.Policy{ProviderTimeout: providerTimeout, Lease: 3 * providerTimeout, Horizon: time.Hour}

// startNode serves the shop's API from what a node of the shop has for itself.
func (b *bench) startNode(ctx context.Context, pool *pgxpool.Pool, placing *orders.Service,
	provider *psp.Client) (*server, error) {
	silent := slog.New(slog.DiscardHandler)
	recorder := timeline.NewRecorder(pool, silent)
	charges := payments.New(pool, placing, provider, policy, time.Now, recorder, silent)
	recording, stopRecording := context.WithCancel(context.WithoutCancel(ctx))
	recorded := make(chan struct{})
	go func() {
		defer close(recorded)
		recorder.Run(recording)
	}()
	replays := dedup.NewReplays(replayBytes, replayFor)
	b.stops = append(b.stops, func() {
		stopRecording()
		<-recorded
		replays.Close()
	})
	v1 := &api.API{
		Orders:   placing,
		Payments: charges,
		Accounts: accounts.New(pool, false),
		Replays:  replays,
		Timeline: timeline.New(pool),
		Recorder: recorder,
		Log:      silent,
	}
	return b.serve(ctx, ourHandler(v1)) //nolint:contextcheck // echo carries each request's context
}

// startProvider starts a payment provider behind real HTTP, and returns a client of it.
func (b *bench) startProvider() (client *psp.Client, address string, err error) {
	address, stop, err := b.newProvider()
	if err != nil {
		return nil, "", fmt.Errorf("start the bench's payment provider: %w", err)
	}
	client = psp.NewClient(address, providerTimeout)
	b.stops = append(b.stops, stop, client.CloseIdleConnections)
	return client, address, nil
}

// checkOurs asks the shop's own invariants of what all scenarios have left, against the provider
// too.
func (b *bench) checkOurs(ctx context.Context) error {
	return b.hold(ctx, check.Sources{DB: b.ours, ProviderURL: b.providerURL})
}

func (b *bench) hold(ctx context.Context, sources check.Sources) error {
	report, err := check.Run(ctx, sources)
	if err != nil {
		return err
	}
	var broken []string
	for _, r := range report.Violated() {
		if r.Invariant == "I10" { // nothing carries the bench's events away
			continue
		}
		broken = append(broken, fmt.Sprintf("%s, %s: %d times", r.Invariant, r.Says, r.Violations.Count))
	}
	if len(broken) > 0 {
		return fmt.Errorf("the shop's invariants do not hold: %s", strings.Join(broken, "; "))
	}
	return nil
}

// newKey returns a key as clients make them: each falls somewhere else in the index.
func (b *bench) newKey() string { return uuid.NewString() }

// machine says where the figures come from.
func (b *bench) machine(ctx context.Context) Machine {
	m := Machine{Cores: runtime.GOMAXPROCS(0), Go: runtime.Version()}
	_ = b.ours.QueryRow(ctx, "SELECT current_setting('server_version'), current_setting('fsync'), "+
		"current_setting('synchronous_commit')").
		Scan(&m.Postgres, &m.Fsync, &m.SynchronousCommit) // who cannot say stays empty, the run shows what is wrong
	return m
}
