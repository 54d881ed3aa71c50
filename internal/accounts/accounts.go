// Package accounts identifies the caller: customers with API tokens, and guests of the storefront.
// A customer is the scope of every idempotency key.
package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/mail"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/maypok86/otter/v2"

	"github.com/onceshop/onceshop/internal/accounts/internal/accountsdb"
	"github.com/onceshop/onceshop/internal/bounded"
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
	// a revoked token fails on every node.
	knownFor = 5 * time.Second
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
	return &Service{db: accountsdb.New(pool), acceptDemo: acceptDemo, known: known}
}

// Authenticate returns the customer of an API token, or ErrUnauthorized. A node that has just seen
// a token accepts it for up to five seconds after it was revoked. See docs/performance.md, P7.
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
	customer, err := s.find(ctx, hashed)
	if err == nil {
		s.known.Set(hashed, seenCustomer{customer, time.Now().Add(knownFor)})
	}
	return customer, err
}

func (s *Service) find(ctx context.Context, hashed tokenHash) (Customer, error) {
	found, err := s.db.FindToken(ctx, hashed[:])
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && found.Demo && !s.acceptDemo:
		return Customer{}, ErrUnauthorized
	case err != nil:
		return Customer{}, fmt.Errorf("find the token: %w", err)
	}
	return Customer{ID: found.CustomerID, Admin: found.Admin}, nil
}

// IssueToken creates a token for the account with this email, and the account when it is new.
// The token is returned once; only its hash is stored.
func (s *Service) IssueToken(ctx context.Context, email string, admin bool) (string, error) {
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email {
		return "", fmt.Errorf("%q is not an email address such as alice@example.com", email)
	}
	token := "shop_" + rand.Text()
	if err := s.addToken(ctx, email, token, admin, false); err != nil {
		return "", err
	}
	return token, nil
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
		s.addToken(ctx, "alice@example.com", DemoAlice, false, true),
		s.addToken(ctx, "bob@example.com", DemoBob, false, true),
		s.addToken(ctx, "admin@example.com", DemoAdmin, true, true),
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

func (s *Service) addToken(ctx context.Context, email, token string, admin, demo bool) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make an id: %w", err)
	}
	if _, err := s.db.InsertCustomer(ctx, accountsdb.InsertCustomerParams{ID: id, Email: &email}); err != nil {
		return fmt.Errorf("add customer %s: %w", email, err)
	}
	if id, err = s.db.FindCustomerByEmail(ctx, email); err != nil {
		return fmt.Errorf("find customer %s: %w", email, err)
	}
	hashed := hash(token)
	err = s.db.InsertToken(ctx, accountsdb.InsertTokenParams{Hash: hashed[:], CustomerID: id, Admin: admin, Demo: demo})
	if err != nil {
		return fmt.Errorf("add the token of %s: %w", email, err)
	}
	return nil
}

type tokenHash [sha256.Size]byte

func hash(token string) tokenHash { return sha256.Sum256([]byte(token)) }
