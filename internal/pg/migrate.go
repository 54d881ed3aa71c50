package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/onceshop/onceshop/db/migrations"
)

const (
	// migrationLockWait is how long a migration waits for a lock. All others that want the table
	// wait behind it.
	migrationLockWait = 500 * time.Millisecond
	// migrationPause is the time between two tries, in which the others go on.
	migrationPause = time.Second
	// migrationTries is how often a migration tries to get its locks.
	migrationTries = 400
)

// Migrate brings the schema up to date and returns the versions that it applied. It creates the
// schema that search_path selects. It holds a session lock, so that nodes that start together
// migrate one after another. It therefore needs a direct connection, not a transaction pooler. A
// migration may take as long as it needs, but it does not wait for a lock for long: it begins anew
// after a pause.
func Migrate(ctx context.Context, pool *pgxpool.Pool) ([]int64, error) {
	return migrate(ctx, pool, migrations.FS)
}

func migrate(ctx context.Context, pool *pgxpool.Pool, files fs.FS) (applied []int64, err error) {
	if err := createSchema(ctx, pool); err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*migrationConfig(pool))
	defer db.Close()
	provider, err := newProvider(db, files, Cell(pool))
	if err != nil {
		return nil, err
	}
	for range migrationTries {
		var results []*goose.MigrationResult
		results, err = provider.Up(ctx)
		if partial, ok := errors.AsType[*goose.PartialError](err); ok {
			results = partial.Applied
		}
		for _, r := range results {
			applied = append(applied, r.Source.Version)
		}
		if !IsLockTimeout(err) {
			break
		}
		select {
		case <-ctx.Done():
			return applied, ctx.Err()
		case <-time.After(migrationPause):
		}
	}
	if IsLockTimeout(err) {
		return applied, fmt.Errorf("a session holds a table that the migration needs; find it with SELECT * FROM "+
			"pg_stat_activity ORDER BY xact_start, end it and migrate again: %w", err)
	}
	if err != nil {
		return applied, fmt.Errorf("migrate the schema: %w", err)
	}
	return applied, nil
}

// migrationConfig connects as the pool does, with the timeouts of migrations and without the
// planner switches of a service that only looks up rows.
func migrationConfig(pool *pgxpool.Pool) *pgx.ConnConfig {
	config := pool.Config().ConnConfig
	for name := range lookUps {
		delete(config.RuntimeParams, name)
	}
	config.RuntimeParams["statement_timeout"] = "0"
	config.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	config.RuntimeParams["lock_timeout"] = migrationLockWait.String()
	return config
}

// Migration is one migration and whether the database has it.
type Migration struct {
	Version int64
	File    string
	Applied bool
}

// MigrationStatus lists every migration of this binary.
func MigrationStatus(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := newProvider(db, migrations.FS, Cell(pool))
	if err != nil {
		return nil, err
	}
	status, err := provider.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the schema's state: %w", err)
	}
	var all []Migration
	for _, s := range status {
		m := Migration{Version: s.Source.Version, File: s.Source.Path, Applied: s.State == goose.StateApplied}
		all = append(all, m)
	}
	return all, nil
}

// IsMigrated reports whether the database has every migration of this binary.
func IsMigrated(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := newProvider(db, migrations.FS, Cell(pool))
	if err != nil {
		return false, err
	}
	var pending bool
	err = whileFull(ctx, func() (err error) {
		pending, err = provider.HasPending(ctx)
		return err
	})
	return !pending, err
}

func newProvider(db *sql.DB, files fs.FS, cell string) (*goose.Provider, error) {
	// Try once a second for five minutes. The default tries every five seconds and would delay a
	// second node by as much.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock(cell)), lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, fmt.Errorf("prepare the migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker),
		goose.WithAllowOutofOrder(true)) // a fork numbers its own files above those of later releases
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	return provider, nil
}
