// Package accounts identifies the caller: customers with API tokens, and guests of the storefront.
// A customer is the scope of every idempotency key.
package accounts

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/maypok86/otter/v2"

	"github.com/onceshop/onceshop/internal/accounts/internal/accountsdb"
	"github.com/onceshop/onceshop/internal/bounded"
	"github.com/onceshop/onceshop/internal/pg"
)

// ErrUnauthorized reports a token that is missing, unknown, or not accepted here.
var ErrUnauthorized = errors.New("accounts: no such token")

// Customer is the account that a request acts for.
type Customer struct {
	ID    uuid.UUID
	Admin bool
}

const (
	// knownFor is how long a token that was found stays in memory. It is also the time after which
	// a revoked token fails on every node. An expired token fails at once.
	knownFor = time.Second
	maxKnown = 10_000
)

// Service keeps customers and tokens.
type Service struct {
	db         *accountsdb.Queries
	acceptDemo bool
	known      bounded.Map[tokenHash, seenCustomer]
}

// seenCustomer is a customer found by its token. It is valid until the given time.
type seenCustomer struct {
	Customer
	until time.Time
}

// New returns a service on the pool's database. It accepts demo tokens only with acceptDemo.
func New(pool *pgxpool.Pool, acceptDemo bool) *Service {
	known := otter.Must(&otter.Options[tokenHash, seenCustomer]{MaximumSize: maxKnown})
	return &Service{db: accountsdb.New(pg.Patient{Pool: pool}), acceptDemo: acceptDemo, known: known}
}

// Authenticate returns the customer of an API token, or ErrUnauthorized. A node that has just seen
// a token accepts it for up to one second after it was revoked. See docs/performance.md, P7.
func (s *Service) Authenticate(ctx context.Context, token string) (Customer, error) {
	if token == "" {
		return Customer{}, ErrUnauthorized
	}
	// A lookup by hash does not compare secrets byte by byte, so its timing does not reveal the
	// token.
	hashed := hash(token)
	if seen, ok := s.known.GetIfPresent(hashed); ok && time.Now().Before(seen.until) {
		return seen.Customer, nil
	}
	customer, left, err := s.find(ctx, hashed)
	if err == nil {
		s.known.Set(hashed, seenCustomer{customer, time.Now().Add(min(left, knownFor))})
	}
	return customer, err
}

// Remembered returns the customer of a token that this node has accepted lately. It may have ended
// since: use it for the log only.
func (s *Service) Remembered(token string) (Customer, bool) {
	seen, ok := s.known.GetIfPresent(hash(token))
	return seen.Customer, ok
}

// find also returns how long the token is still good.
func (s *Service) find(ctx context.Context, hashed tokenHash) (Customer, time.Duration, error) {
	found, err := s.db.FindToken(ctx, hashed[:])
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && found.Demo && !s.acceptDemo:
		return Customer{}, 0, ErrUnauthorized
	case err != nil:
		return Customer{}, 0, fmt.Errorf("find the token: %w", err)
	}
	left := time.Duration(found.SecondsLeft * float64(time.Second))
	return Customer{ID: found.CustomerID, Admin: found.Admin}, left, nil
}

// The demo's tokens. `shop serve` rejects them.
const (
	DemoAlice = "demo-alice"
	DemoBob   = "demo-bob"
	DemoAdmin = "demo-admin"
)

// SeedDemo creates the demo's customers and tokens, once.
func (s *Service) SeedDemo(ctx context.Context) error {
	return errors.Join(
		s.addToken(ctx, "alice@example.com", accountsdb.InsertTokenParams{Demo: true, Prefix: DemoAlice}, DemoAlice),
		s.addToken(ctx, "bob@example.com", accountsdb.InsertTokenParams{Demo: true, Prefix: DemoBob}, DemoBob),
		s.addToken(ctx, "admin@example.com", accountsdb.InsertTokenParams{Demo: true, Prefix: DemoAdmin, Admin: true},
			DemoAdmin),
	)
}

// EnsureGuest adds a customer for a guest, under the id in the guest's signed cookie.
func (s *Service) EnsureGuest(ctx context.Context, id uuid.UUID) error {
	if _, err := s.db.InsertCustomer(ctx, accountsdb.InsertCustomerParams{ID: id}); err != nil {
		return fmt.Errorf("add the guest: %w", err)
	}
	return nil
}

// Email returns the email of a customer, "" for a guest.
func (s *Service) Email(ctx context.Context, id uuid.UUID) (string, error) {
	email, err := s.db.GetEmail(ctx, id)
	if err != nil {
		return "", fmt.Errorf("read the customer's email: %w", err)
	}
	return email, nil
}

type tokenHash [sha256.Size]byte

func hash(token string) tokenHash { return sha256.Sum256([]byte(token)) }
