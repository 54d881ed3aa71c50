package accounts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/accounts/internal/accountsdb"
)

const (
	tokenScheme = "shop_"
	// prefixLength is of the part of a token that people name it by. The rest still has 90 random
	// bits.
	prefixLength = len(tokenScheme) + 8
)

// IssueToken creates a token for the account with this email, and the account when it is new.
// The token is returned once; only its hash is stored. It does not expire.
func (s *Service) IssueToken(ctx context.Context, email string, admin bool) (string, error) {
	return s.IssueTokenFor(ctx, 0, email, admin)
}

// IssueTokenFor is IssueToken for a token that expires after its lifetime, or never after zero.
func (s *Service) IssueTokenFor(
	ctx context.Context, lifetime time.Duration, email string, admin bool,
) (string, error) {
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email {
		return "", fmt.Errorf("%q is not an email address such as alice@example.com", email)
	}
	token := tokenScheme + rand.Text()
	row := accountsdb.InsertTokenParams{Admin: admin, Prefix: token[:prefixLength]}
	if lifetime > 0 {
		seconds := lifetime.Seconds()
		row.Seconds = &seconds
	}
	if err := s.addToken(ctx, email, row, token); err != nil {
		return "", err
	}
	return token, nil
}

// addToken completes the row with the token's hash and the customer.
func (s *Service) addToken(ctx context.Context, email string, row accountsdb.InsertTokenParams, token string) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make an id: %w", err)
	}
	if _, err := s.db.InsertCustomer(ctx, accountsdb.InsertCustomerParams{ID: id, Email: &email}); err != nil {
		return fmt.Errorf("add customer %s: %w", email, err)
	}
	if row.CustomerID, err = s.db.FindCustomerByEmail(ctx, email); err != nil {
		return fmt.Errorf("find customer %s: %w", email, err)
	}
	hashed := hash(token)
	row.Hash = hashed[:]
	if err := s.db.InsertToken(ctx, row); err != nil {
		return fmt.Errorf("add the token of %s: %w", email, err)
	}
	return nil
}

// Token describes an issued token, without its secret.
type Token = accountsdb.ListTokensRow

// Tokens returns every token, oldest first.
func (s *Service) Tokens(ctx context.Context) ([]Token, error) {
	tokens, err := s.db.ListTokens(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the tokens: %w", err)
	}
	return tokens, nil
}

// RevokeToken ends the token that begins with the text, and its operators' sessions. It returns the
// token's prefix. It revokes nothing unless exactly one token begins so.
func (s *Service) RevokeToken(ctx context.Context, text string) (prefix string, err error) {
	if strings.TrimPrefix(text, tokenScheme) == "" {
		return "", errors.New("name more of the token than " + tokenScheme)
	}
	found, err := s.db.FindTokensByPrefix(ctx, text)
	switch {
	case err != nil:
		return "", fmt.Errorf("find the token: %w", err)
	case len(found) == 0:
		return "", fmt.Errorf("no token that is not revoked begins with %q", text[:min(len(text), prefixLength)])
	case len(found) > 1:
		return "", fmt.Errorf("%d tokens begin with %q: name more of the token", len(found), text)
	}
	prefix, err = s.db.RevokeToken(ctx, found[0])
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errors.New("the token has just been revoked")
	}
	if err != nil {
		return "", fmt.Errorf("revoke the token: %w", err)
	}
	return prefix, nil
}
