package pg

import (
	"context"
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3/lock"
)

// A cell is a shop in a schema of its own, which search_path in DATABASE_URL selects. Cells can
// share a database, a broker and a Redis: a cell's name is part of the names of its locks, streams
// and keys. See docs/decisions.md, D104.

// Cell returns the schema that the pool's URL selects, or "" for the usual one.
func Cell(pool *pgxpool.Pool) string { return cell(pool.Config().ConnConfig) }

var (
	searchPathOption = regexp.MustCompile(`(?:^|\s)-c\s*search_path=((?:\\.|\S)*)`)
	cellName         = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,30}$`)
)

// cell reads the first schema of search_path. Postgres keeps names that begin with pg_ for itself.
func cell(config *pgx.ConnConfig) string {
	path := config.RuntimeParams["search_path"]
	if found := searchPathOption.FindStringSubmatch(config.RuntimeParams["options"]); found != nil && path == "" {
		path = found[1]
	}
	first, _, _ := strings.Cut(path, ",")
	switch first = strings.Trim(first, `"\ `); {
	case first == "public", first == "$user", strings.HasPrefix(first, "pg_"):
		return ""
	}
	return first
}

// checkCellName refuses a name that would have to be quoted, or that differs from another only by
// the case of letters.
func checkCellName(name string) error {
	if name == "" || cellName.MatchString(name) {
		return nil
	}
	return fmt.Errorf("DATABASE_URL: search_path begins with the schema %q, and a shop's schema has a name of at most "+
		"31 lower-case letters, digits and underscores", name)
}

// checkSchema refuses a session in another schema than the cell's, which a pooler that drops
// search_path would give. A schema that does not exist yet is not refused: Migrate creates it.
func checkSchema(ctx context.Context, conn *pgx.Conn) error {
	want := cell(conn.Config())
	if want == "" {
		return nil
	}
	// The simple protocol prepares no statement.
	results, err := conn.PgConn().Exec(ctx, "SELECT current_schema()").ReadAll()
	if err != nil {
		return fmt.Errorf("ask for the session's schema: %w", err)
	}
	if is := results[0].Rows[0][0]; is != nil && string(is) != want {
		return fmt.Errorf("DATABASE_URL: search_path selects the schema %s, and the session is in %s: create %s, or, "+
			"behind a pooler that drops search_path, set it with ALTER ROLE", want, is, want)
	}
	return nil
}

// createSchema creates the cell's schema if it does not exist.
func createSchema(ctx context.Context, pool *pgxpool.Pool) error {
	name := Cell(pool)
	if name == "" {
		return nil
	}
	var exists bool
	const find = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"
	if err := pool.QueryRow(ctx, find, name).Scan(&exists); err != nil {
		return fmt.Errorf("look for the schema %s: %w", name, err)
	}
	if exists {
		return nil
	}
	_, err := pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{name}.Sanitize())
	if err != nil && code(err) != "23505" { // another node has just created it
		return fmt.Errorf("create the schema %s, or have the database's owner create it: %w", name, err)
	}
	return nil
}

// migrationLock is the number of the advisory lock that migrations of the cell hold.
func migrationLock(cell string) int64 {
	if cell == "" {
		return lock.DefaultLockID
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte("migrate " + cell)) // does not fail
	return int64(hash.Sum64())                   //nolint:gosec // any number will do
}
