package accounts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/accounts/internal/accountsdb"
)

const (
	// SessionAge is how long an operator stays signed in at most.
	SessionAge = 8 * time.Hour
	// sessionIdle is how long a session lasts without a request.
	sessionIdle = 30 * time.Minute
)

// OpenSession exchanges an admin's token for the id of a new session, or returns ErrUnauthorized.
// The session ends with the token, after SessionAge, and when it was not used for half an hour.
func (s *Service) OpenSession(ctx context.Context, token string) (id string, operator Customer, err error) {
	// The memory of tokens is not asked: a session must not begin with a token that was revoked.
	hashed := hash(token)
	operator, _, err = s.find(ctx, hashed)
	if err == nil && !operator.Admin {
		err = ErrUnauthorized
	}
	if err != nil {
		return "", Customer{}, err
	}
	ended := accountsdb.DeleteEndedSessionsParams{Idle: sessionIdle, Age: SessionAge}
	if err := s.db.DeleteEndedSessions(ctx, ended); err != nil {
		return "", Customer{}, fmt.Errorf("remove ended sessions: %w", err)
	}
	id = rand.Text()
	sessionHash := hash(id)
	row := accountsdb.InsertSessionParams{Hash: sessionHash[:], TokenHash: hashed[:]}
	if err := s.db.InsertSession(ctx, row); err != nil {
		return "", Customer{}, fmt.Errorf("store the session: %w", err)
	}
	return id, operator, nil
}

// Session returns the operator of a session, or ErrUnauthorized if it has ended.
func (s *Service) Session(ctx context.Context, id string) (Customer, error) {
	hashed := hash(id)
	found, err := s.db.FindSession(ctx,
		accountsdb.FindSessionParams{Hash: hashed[:], Idle: sessionIdle, Age: SessionAge})
	if errors.Is(err, pgx.ErrNoRows) || err == nil && (!found.Admin || found.Demo && !s.acceptDemo) {
		return Customer{}, ErrUnauthorized
	}
	if err == nil && found.Stale {
		err = s.db.TouchSession(ctx, hashed[:])
	}
	if err != nil {
		return Customer{}, fmt.Errorf("find the session: %w", err)
	}
	return Customer{ID: found.CustomerID, Admin: true}, nil
}

// CloseSession ends a session. It does nothing if there is no such session.
func (s *Service) CloseSession(ctx context.Context, id string) error {
	hashed := hash(id)
	if err := s.db.DeleteSession(ctx, hashed[:]); err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	return nil
}
