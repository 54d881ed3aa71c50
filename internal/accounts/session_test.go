package accounts_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func openSession(t *testing.T, service *accounts.Service, token string) string {
	t.Helper()
	id, operator, err := service.OpenSession(t.Context(), token)
	if err != nil || !operator.Admin {
		t.Fatalf("%+v, %v", operator, err)
	}
	return id
}

func wantSession(t *testing.T, service *accounts.Service, what, id string, lasts bool) {
	t.Helper()
	operator, err := service.Session(t.Context(), id)
	if lasts != (err == nil) || !lasts && (!errors.Is(err, accounts.ErrUnauthorized) ||
		operator != accounts.Customer{}) {
		t.Errorf("%s: %+v, %v", what, operator, err)
	}
}

func exec(t *testing.T, pool *pgxpool.Pool, statement string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestSession(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	token := issue(t, service, "admin@example.com", true)
	first, second := openSession(t, service, token), openSession(t, service, token)
	if first == second {
		t.Error("two sessions have one id")
	}
	wantSession(t, service, "a session", first, true)
	for _, id := range []string{"", "x", token, first + "x"} {
		wantSession(t, service, "no session", id, false)
	}
	if n := count(t, pool, "operator_sessions WHERE hash::text LIKE '%"+first+"%'"); n != 0 {
		t.Error("the id is stored")
	}
	if err := service.CloseSession(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	wantSession(t, service, "a closed session", first, false)
	wantSession(t, service, "the other session", second, true)
}

func TestSessionNeedsAnAdmin(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	revoked := issue(t, service, "admin@example.com", true)
	authenticate(t, service, revoked) // it is in memory now
	if _, err := service.RevokeToken(t.Context(), revoked); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"", "shop_x", issue(t, service, "bob@example.com", false), revoked} {
		id, _, err := service.OpenSession(t.Context(), token)
		if !errors.Is(err, accounts.ErrUnauthorized) || id != "" {
			t.Errorf("%q opens %q, %v", token, id, err)
		}
	}
	if n := count(t, pool, "operator_sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// A session ends with its token, its age, or for want of use; each of these alone is enough.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{
		"token revoked":   "UPDATE api_tokens SET revoked_at = now()",
		"token expired":   "UPDATE api_tokens SET expires_at = now()",
		"token deleted":   "DELETE FROM api_tokens",
		"no admin's":      "UPDATE api_tokens SET admin = false",
		"the demo's":      "UPDATE api_tokens SET demo = true",
		"half an hour on": "UPDATE operator_sessions SET seen_at = now() - interval '31 minutes'",
		"eight hours on":  "UPDATE operator_sessions SET created_at = now() - interval '8 hours'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service, pool := setup(t)
			id := openSession(t, service, issue(t, service, "admin@example.com", true))
			wantSession(t, service, "before", id, true)
			exec(t, pool, end)
			wantSession(t, service, "after", id, false)
		})
	}
}

// A session that is in use outlasts half an hour, and an ended one leaves no row.
func TestSessionInUse(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	token := issue(t, service, "admin@example.com", true)
	id := openSession(t, service, token)
	for range 3 {
		exec(t, pool, "UPDATE operator_sessions SET seen_at = seen_at - interval '20 minutes', "+
			"created_at = created_at - interval '20 minutes'")
		wantSession(t, service, "in use", id, true)
	}
	exec(t, pool, "UPDATE operator_sessions SET seen_at = now() - interval '1 hour'")
	openSession(t, service, token)
	if n := count(t, pool, "operator_sessions"); n != 1 {
		t.Errorf("%d sessions, want the new one", n)
	}
}

func TestTokenEnds(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	short, err := service.IssueTokenFor(t.Context(), time.Hour, "alice@example.com", false)
	if err != nil {
		t.Fatal(err)
	}
	long, other := issue(t, service, "alice@example.com", false), issue(t, service, "bob@example.com", true)
	authenticate(t, service, short)
	exec(t, pool, "UPDATE api_tokens SET expires_at = expires_at - interval '1 hour'")
	fresh := accounts.New(pool, false)
	wantUnauthorized(t, fresh, short)
	authenticate(t, fresh, long)

	for _, text := range []string{"", "shop_", "shop_unknown", "nonsense"} {
		if prefix, err := service.RevokeToken(t.Context(), text); err == nil {
			t.Errorf("%q revokes %s", text, prefix)
		}
	}
	if prefix, err := service.RevokeToken(t.Context(), long[:10]); err != nil || prefix != long[:13] {
		t.Errorf("revoked %s, %v", prefix, err)
	}
	wantUnauthorized(t, accounts.New(pool, false), long)
	// The node that has just seen it refuses it soon.
	shoptest.Eventually(t, 5*time.Second, "the token is refused", func() bool {
		_, err := fresh.Authenticate(t.Context(), long)
		return errors.Is(err, accounts.ErrUnauthorized)
	})
	if _, err := service.RevokeToken(t.Context(), long); err == nil {
		t.Error("it was revoked twice")
	}
	authenticate(t, accounts.New(pool, false), other)
	tokens, err := service.Tokens(t.Context())
	if err != nil || len(tokens) != 3 || tokens[0].Good || tokens[1].Good || !tokens[2].Good ||
		tokens[2].Prefix != other[:13] || tokens[2].Email != "bob@example.com" || !tokens[2].Admin {
		t.Errorf("%+v, %v", tokens, err)
	}
}

// A prefix that names two tokens revokes neither.
func TestRevokeNeedsOneToken(t *testing.T) {
	t.Parallel()
	service, pool := setup(t)
	issue(t, service, "alice@example.com", false)
	issue(t, service, "alice@example.com", false)
	exec(t, pool, "UPDATE api_tokens SET prefix = 'shop_SAMESAME'")
	if _, err := service.RevokeToken(t.Context(), "shop_SAME"); err == nil {
		t.Error("a prefix of two tokens was taken")
	}
	if n := count(t, pool, "api_tokens WHERE revoked_at IS NOT NULL"); n != 0 {
		t.Errorf("%d tokens are revoked", n)
	}
}
