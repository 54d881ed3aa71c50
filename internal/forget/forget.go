// Package forget erases a person's data. The rows stay, for the books and because their
// idempotency keys stay used: a retry gets dedup.ErrErased. The package is plain SQL because it
// writes tables of every domain, and sqlc's packages are private to their domains. docs/privacy.md
// lists what each column holds.
package forget

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
)

// ErrNotFound reports an order that does not exist, or an address that no row has.
var ErrNotFound = errors.New("nothing is stored under this name")

// RefusedError reports data that the shop still needs. It was not changed. Why ends with the way
// out.
type RefusedError struct{ What, Why string }

func (e RefusedError) Error() string { return e.What + " was not erased: " + e.Why }

// Order erases the buyer's data of one order, in one transaction. Erasing it again also erases what
// was stored since, such as a late event of the provider.
func Order(ctx context.Context, pool *pgxpool.Pool, id uuid.UUID) error {
	err := pg.InTx(ctx, pool, func(tx pgx.Tx) error { return orderTx(ctx, tx, id) })
	if pg.IsLockTimeout(err) {
		return RefusedError{"order " + id.String(), "another transaction holds it; try again"}
	}
	return err
}

func orderTx(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	tag, err := tx.Exec(ctx, `SELECT FROM orders WHERE id = $1 FOR NO KEY UPDATE`, id)
	if err != nil {
		return fmt.Errorf("lock the order: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	var open string // a statement of its own: it sees what was committed before the lock was granted
	if err := tx.QueryRow(ctx, whyOpen, id).Scan(&open); err != nil {
		return fmt.Errorf("look for what is unfinished: %w", err)
	}
	if open != "" {
		return RefusedError{"order " + id.String(), open}
	}
	for _, statement := range eraseOrder {
		if _, err := tx.Exec(ctx, statement, id); err != nil {
			return fmt.Errorf("erase the order: %w", err)
		}
	}
	if _, err := tx.Exec(ctx, countErasure); err != nil {
		return fmt.Errorf("count the erasure: %w", err)
	}
	return nil
}

// Report is what Customer did.
type Report struct {
	// Accounts, Orders and Mentions count what was erased: accounts with the address, orders, and
	// other rows that mention the address.
	Accounts, Orders, Mentions int
	Refused                    []RefusedError
}

// Customer erases everything about the person with the address: the orders to it, the account, all
// orders of the account, and other rows that mention the address. Each order has a transaction of
// its own, and large tables are read in slices. If something is refused, the account keeps its
// address, so that the same call can finish later. The function progress is called after each
// slice.
func Customer(ctx context.Context, pool *pgxpool.Pool, email string, progress func(read int, done Report)) (Report,
	error) {
	var r Report
	read := 0
	refuse := func(err error) error {
		refused, ok := errors.AsType[RefusedError](err)
		if ok {
			r.Refused = append(r.Refused, refused)
			return nil
		}
		return err
	}
	err := inSlices(ctx, pool, ordersOf, firstID, email, func(ids []string, n int) error {
		for _, id := range ids {
			if err := Order(ctx, pool, uuid.MustParse(id)); err == nil {
				r.Orders++
			} else if err := refuse(err); err != nil {
				return err
			}
		}
		read += n
		progress(read, r)
		return nil
	})
	if err != nil {
		return r, err
	}
	for _, m := range mentions {
		err := inSlices(ctx, pool, m.find, m.first, email, func(ids []string, n int) error {
			erased, err := collect(ctx, pool, m.erase, ids)
			if err != nil {
				return fmt.Errorf("erase the %s: %w", m.what, err)
			}
			for _, id := range ids {
				if !slices.Contains(erased, id) {
					r.Refused = append(r.Refused, RefusedError{m.what + " " + id, m.why})
				}
			}
			r.Mentions += len(erased)
			read += n
			progress(read, r)
			return nil
		})
		if err != nil {
			return r, err
		}
	}
	if len(r.Refused) > 0 {
		return r, nil
	}
	accounts, err := collect(ctx, pool,
		`UPDATE customers SET email = NULL WHERE lower(email) = lower($1) RETURNING id::text`, email)
	if err != nil {
		return r, fmt.Errorf("erase the account: %w", err)
	}
	r.Accounts = len(accounts)
	if r.Accounts+r.Orders+r.Mentions == 0 {
		return r, ErrNotFound
	}
	return r, nil
}

// inSlices calls do with the ids that the query finds in each slice of a table, and with the
// slice's size.
func inSlices(ctx context.Context, pool *pgxpool.Pool, query, after, email string,
	do func(ids []string, read int) error) error {
	for {
		var last *string
		var ids []string
		var read int
		if err := pool.QueryRow(ctx, query, after, email, sliceSize).Scan(&last, &ids, &read); err != nil {
			return fmt.Errorf("look for the address: %w", err)
		}
		if last == nil {
			return nil
		}
		if err := do(ids, read); err != nil {
			return err
		}
		after = *last
	}
}

func collect(ctx context.Context, pool *pgxpool.Pool, statement string, arg any) ([]string, error) {
	rows, err := pool.Query(ctx, statement, arg)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
