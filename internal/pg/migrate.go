package pg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/onceshop/onceshop/db/migrations"
)

// Migrate brings the schema up to date and returns the versions it applied. Nodes that start
// together take a session lock in turn, so it needs a direct connection, not a transaction pooler.
func Migrate(ctx context.Context, pool *pgxpool.Pool) ([]int64, error) {
	provider, closeDB, err := newProvider(pool)
	if err != nil {
		return nil, err
	}
	defer closeDB()
	results, err := provider.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate the schema: %w", err)
	}
	var applied []int64
	for _, r := range results {
		applied = append(applied, r.Source.Version)
	}
	return applied, nil
}

// Migration is one step of the schema and whether this database has it.
type Migration struct {
	Version int64
	File    string
	Applied bool
}

// MigrationStatus lists every step that this binary knows.
func MigrationStatus(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	provider, closeDB, err := newProvider(pool)
	if err != nil {
		return nil, err
	}
	defer closeDB()
	status, err := provider.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the schema's state: %w", err)
	}
	var all []Migration
	for _, s := range status {
		all = append(all, Migration{Version: s.Source.Version, File: s.Source.Path,
			Applied: s.State == goose.StateApplied})
	}
	return all, nil
}

// IsMigrated reports whether the database has every step that this binary knows.
func IsMigrated(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	provider, closeDB, err := newProvider(pool)
	if err != nil {
		return false, err
	}
	defer closeDB()
	pending, err := provider.HasPending(ctx)
	return !pending, err
}

func newProvider(pool *pgxpool.Pool) (*goose.Provider, func(), error) {
	// Five minutes of patience, a look each second: the default looks every fifth, which is how
	// long a second node would wait.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, nil, fmt.Errorf("prepare the migration lock: %w", err)
	}
	db := stdlib.OpenDBFromPool(pool)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithSessionLocker(locker))
	if err != nil {
		_ = db.Close()
		return nil, nil, fmt.Errorf("read the migrations: %w", err)
	}
	return provider, func() { _ = db.Close() }, nil
}
