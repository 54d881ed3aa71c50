package dedup

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/pg"
)

// Row is the database row that an idempotency key belongs to.
type Row struct {
	// ID is the object that the first request with the key created or changed.
	ID uuid.UUID
	// Fingerprint is what the first request asked for.
	Fingerprint []byte
	// Answer is the first request's answer. Its Status is 0 while that request is still running.
	Answer Answer
}

// Results of the two steps of a Request.
var (
	// ErrNoRow reports that no row has the key.
	ErrNoRow = errors.New("dedup: no row has the idempotency key")
	// ErrKeyTaken reports that another request inserted a row with the key first.
	ErrKeyTaken = errors.New("dedup: another request took the idempotency key")
)

// Request is one call of an operation whose table has a UNIQUE constraint on customer and key.
type Request struct {
	Fingerprint Fingerprint
	// Find reads the row with the key, or returns ErrNoRow. It is a statement of its own: an INSERT
	// and a SELECT in one statement (a CTE) would not see a row that a concurrent request inserted.
	Find func(context.Context) (Row, error)
	// Do inserts the row with the key and carries out the request, in one transaction. The
	// statement is INSERT … ON CONFLICT DO NOTHING: a unique violation would abort the transaction.
	// If it inserts nothing, Do returns ErrKeyTaken. On pg.ErrCommitUnknown it returns the answer
	// too.
	Do func(context.Context) (Answer, error)
}

const (
	// maxRounds bounds how often a request that lost its key finds no winner. A winner can fail
	// after it inserted the key, such as an order for which there is no stock.
	maxRounds = 10
	// resolveTimeout bounds the search for the row after a lost COMMIT.
	resolveTimeout = 3 * time.Second
)

// Once carries out the request unless an earlier request with the same key did. It returns the
// first request's answer to every request with the same key and fingerprint. It returns
// KeyReusedError for a different fingerprint, InProgressError while the first request is still
// running, ErrErased whatever the fingerprint if the answer was erased, and the errors of Find and
// Do. See docs/decisions.md, D1.
func Once(ctx context.Context, r Request) (Answer, error) {
	for range maxRounds {
		row, err := r.Find(ctx)
		if !errors.Is(err, ErrNoRow) {
			return r.replay(row, err)
		}
		answer, err := r.Do(ctx)
		if errors.Is(err, pg.ErrCommitUnknown) {
			return r.resolve(ctx, answer, err)
		}
		if !errors.Is(err, ErrKeyTaken) {
			return answer, err
		}
	}
	return Answer{}, ErrInProgress
}

// replay answers from the row of an earlier request.
func (r Request) replay(row Row, err error) (Answer, error) {
	switch {
	case err != nil:
		return Answer{}, err
	case row.Answer.Status != 0 && len(row.Answer.Body) == 0:
		return Answer{}, ErrErased
	case !r.Fingerprint.matches(row.Fingerprint):
		return Answer{}, KeyReusedError{ID: row.ID}
	case row.Answer.Status == 0:
		return Answer{}, InProgressError{ID: row.ID}
	}
	answer := row.Answer
	answer.Replayed, answer.StoppedBy = true, ByKey
	return answer, nil
}

// resolve decides what happened when the reply to COMMIT was lost: the transaction took effect if
// its row is there. The caller's context does not end the search, because its answer would be lost.
func (r Request) resolve(ctx context.Context, answer Answer, lost error) (Answer, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
	defer cancel()
	row, err := r.Find(ctx)
	switch {
	case err != nil:
		return Answer{}, errors.Join(lost, err)
	case row.ID == answer.ID:
		return answer, nil
	}
	return r.replay(row, nil)
}
