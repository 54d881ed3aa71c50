package pg_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
)

// search_path selects the schema in which everything happens, in both notations of an option, and
// Migrate creates it.
func TestCell(t *testing.T) {
	t.Parallel()
	url := emptyDatabase(t)
	join := "?"
	if strings.Contains(url, "?") {
		join = "&"
	}
	usual := open(t, url, 2)
	for name, option := range map[string]string{
		"north": "search_path=north", "south": "options=-c%20search_path%3Dsouth", "west": "search_path=west,%20public",
	} {
		pool := open(t, url+join+option, 2)
		if got := pg.Cell(pool); got != name {
			t.Fatalf("the cell of %s is %q, want %q", option, got, name)
		}
		if name == "west" {
			exec(t, usual, "CREATE SCHEMA west") // until then, its sessions would be in public
		}
		if _, err := pg.Migrate(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		if done, err := pg.IsMigrated(t.Context(), pool); err != nil || !done {
			t.Errorf("%s is migrated: %v, %v", name, done, err)
		}
		if got := query[string](t, pool, "SELECT 'orders'::regclass::oid::regclass::text"); got != "orders" {
			t.Errorf("orders of %s are %s", name, got)
		}
	}
	if n := query[int64](t, usual, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); n != 0 {
		t.Errorf("%d tables in public", n)
	}
	if n := query[int64](t, usual, "SELECT count(*) FROM pg_tables WHERE tablename = 'orders'"); n != 3 {
		t.Errorf("%d cells have orders, want 3", n)
	}
	for _, path := range []string{"", "public", "%22$user%22,%20public", "pg_temp"} {
		if got := pg.Cell(open(t, url+join+"search_path="+path, 1)); got != "" {
			t.Errorf("the cell of %q is %q", path, got)
		}
	}
	for _, path := range []string{"North", "%22a%20b%22", "a-b", strings.Repeat("a", 32)} {
		pool, err := pg.Open(t.Context(), url+join+"search_path="+path, 1)
		if err == nil {
			pool.Close()
			t.Errorf("%s is accepted", path)
		} else if !strings.Contains(err.Error(), "search_path") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A session in another schema than the cell's is refused: a pooler dropped the parameter.
func TestCellRefusesAnotherSchema(t *testing.T) {
	t.Parallel()
	url := emptyDatabase(t)
	join := "?"
	if strings.Contains(url, "?") {
		join = "&"
	}
	exec(t, open(t, url, 1), "CREATE SCHEMA elsewhere")
	config, err := pgxpool.ParseConfig(url + join + "search_path=missing,%20elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	pool := open(t, config.ConnString(), 1)
	err = pool.Ping(t.Context())
	if err == nil || !strings.Contains(err.Error(), "missing") || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("got %v", err)
	}
}
