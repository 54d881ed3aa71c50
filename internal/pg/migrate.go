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

// Migrate brings the schema up to date and returns the versions that it applied. It holds a session
// lock, so that nodes that start together migrate one after another. It therefore needs a direct
// connection, not a transaction pooler.
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

// Migration is one migration and whether the database has it.
type Migration struct {
	Version int64
	File    string
	Applied bool
}

// MigrationStatus lists every migration of this binary.
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
		m := Migration{Version: s.Source.Version, File: s.Source.Path, Applied: s.State == goose.StateApplied}
		all = append(all, m)
	}
	return all, nil
}

// IsMigrated reports whether the database has every migration of this binary.
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
	// Try once a second for five minutes. The default tries every five seconds and would delay a
	// second node by as much.
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
