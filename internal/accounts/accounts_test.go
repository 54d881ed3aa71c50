package accounts_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

func setup(t *testing.T) (*accounts.Service, *pgxpool.Pool) {
	t.Helper()
	pool := shoptest.DB(t)
	return accounts.New(pool, false), pool
}

func issue(t *testing.T, service *accounts.Service, email string, admin bool) string {
	t.Helper()
	token, err := service.IssueToken(t.Context(), email, admin)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func authenticate(t *testing.T, service *accounts.Service, token string) accounts.Customer {
	t.Helper()
	customer, err := service.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return customer
}

func wantUnauthorized(t *testing.T, service *accounts.Service, token string) {
	t.Helper()
	if customer, err := service.Authenticate(t.Context(), token); !errors.Is(err, accounts.ErrUnauthorized) ||
		customer != (accounts.Customer{}) {
		t.Errorf("token %q gets %+v, %v; want nobody, ErrUnauthorized", token, customer, err)
	}
}

func count(t *testing.T, pool *pgxpool.Pool, table string) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	service, _ := setup(t)
	first, second := issue(t, service, "alice@example.com", false), issue(t, service, "alice@example.com", false)
	bobs, admins := issue(t, service, "bob@example.com", false), issue(t, service, "admin@example.com", true)

	alice := authenticate(t, service, first)
	if alice.ID == uuid.Nil || alice.Admin {
		t.Errorf("alice is %+v", alice)
	}
	if first == second {
		t.Error("a token was issued twice")
	}
	if again := authenticate(t, service, second); again != alice {
		t.Errorf("her second token is of %+v, want %+v", again, alice)
	}
	if bob := authenticate(t, service, bobs); bob.ID == alice.ID || bob.Admin {
		t.Errorf("bob is %+v, alice %+v", bob, alice)
	}
	if admin := authenticate(t, service, admins); !admin.Admin {
		t.Errorf("the admin is %+v", admin)
	}
	for _, token := range []string{"", " ", "shop_", "shop_unknown", first[:len(first)-1], first + "x",
		strings.ToLower(first), first + "\x00"} {
		wantUnauthorized(t, service, token)
	}
}

func TestAdminIsTheTokenNotTheCustomer(t *testing.T) {
	t.Parallel()
	service, _ := setup(t)
	plain, admin := issue(t, service, "alice@example.com", false), issue(t, service, "alice@example.com", true)
	if authenticate(t, service, plain).Admin || !authenticate(t, service, admin).Admin {
		t.Error("an admin's token changed what another of the same customer may do")
	}
}

func TestAuthenticateWithoutDatabase(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	token := issue(t, service, "alice@example.com", false)
	pool.Close()
	if _, err := service.Authenticate(t.Context(), token); err == nil || errors.Is(err, accounts.ErrUnauthorized) {
		t.Errorf("got %v; a customer must not be turned away because the database is", err)
	}
}

func TestOneAccountPerEmail(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	emails := []string{"alice@example.com", "Alice@Example.COM", "ALICE@EXAMPLE.COM", "alice@example.com"}
	tokens := shoptest.Race(len(emails), func(i int) string {
		token, err := service.IssueToken(t.Context(), emails[i], false)
		if err != nil {
			t.Error(err)
		}
		return token
	})
	alice := authenticate(t, service, tokens[0])
	for i, token := range tokens {
		if customer := authenticate(t, service, token); customer != alice {
			t.Errorf("%s is %+v, want %+v", emails[i], customer, alice)
		}
	}
	if n := count(t, pool, "customers"); n != 1 {
		t.Errorf("%d customers, want 1", n)
	}
}

func TestIssueTokenRefuses(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	for _, email := range []string{"", "alice", "alice@", "@example.com", "Alice <alice@example.com>",
		"<alice@example.com>", " alice@example.com",
		"alice@example.com ", "a@example.com, b@example.com", "alice@example.com\nBcc: b@example.com"} {
		token, err := service.IssueToken(t.Context(), email, false)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", email)) || token != "" {
			t.Errorf("%q gets %q, %v; want no token and an error that names the address", email, token, err)
		}
	}
	if n := count(t, pool, "customers") + count(t, pool, "api_tokens"); n != 0 {
		t.Errorf("%d rows are left of what was refused", n)
	}
}

func TestIssueTokenWithoutDatabase(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	pool.Close()
	if token, err := service.IssueToken(t.Context(), "alice@example.com", false); err == nil || token != "" {
		t.Errorf("got %q, %v; want no token that is not stored", token, err)
	}
}

func TestTokensAreStoredHashed(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	token := issue(t, service, "alice@example.com", true)
	var rows string
	// As text and as bytes: a bytea prints as hexadecimal digits.
	err := pool.QueryRow(t.Context(),
		`SELECT string_agg(r::text || encode(hash, 'escape'), E'\n') FROM api_tokens r`).Scan(&rows)
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimPrefix(token, "shop_")
	if len(secret) < 26 || secret == token {
		t.Errorf("the token is %q, want shop_ and 128 random bits", token)
	}
	for _, trace := range []string{token, secret, fmt.Sprintf("%x", token), fmt.Sprintf("%x", secret)} {
		if strings.Contains(rows, trace) {
			t.Errorf("the database holds the token as %q", trace)
		}
	}
	if count(t, pool, "api_tokens") != 1 {
		t.Error("the token is not stored, so this tests nothing")
	}
}

func TestDemoTokens(t *testing.T) {
	t.Parallel()
	pool := shoptest.DB(t)
	demo, serve := accounts.New(pool, true), accounts.New(pool, false)
	// Twice at once and once more: a demo is started again and again.
	for _, err := range append(shoptest.Race(2, func(int) error {
		return demo.SeedDemo(t.Context())
	}), demo.SeedDemo(t.Context())) {
		if err != nil {
			t.Error(err)
		}
	}
	ids := make(map[uuid.UUID]bool)
	for token, admin := range map[string]bool{accounts.DemoAlice: false, accounts.DemoBob: false,
		accounts.DemoAdmin: true} {
		customer := authenticate(t, demo, token)
		ids[customer.ID] = true
		if customer.Admin != admin {
			t.Errorf("%s is admin: %t", token, customer.Admin)
		}
		wantUnauthorized(t, serve, token)
	}
	if len(ids) != 3 || count(t, pool, "customers") != 3 || count(t, pool, "api_tokens") != 3 {
		t.Errorf("%d demo customers, want 3", len(ids))
	}
	// A token of the same account that was issued is good everywhere.
	if real := issue(t, serve, "alice@example.com", false); authenticate(t, serve, real) != authenticate(t, demo,
		accounts.DemoAlice) {
		t.Error("a token that was issued to the demo's alice is of another customer")
	}
}

func TestEnsureGuest(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	guests := []uuid.UUID{uuid.New(), uuid.New()}
	for _, err := range shoptest.Race(8, func(i int) error { return service.EnsureGuest(t.Context(), guests[i%2]) }) {
		if err != nil {
			t.Error(err)
		}
	}
	if n := count(t, pool, "customers WHERE email IS NULL"); n != len(guests) {
		t.Errorf("%d guests, want %d", n, len(guests))
	}
}
