package shoptest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/onceshop/onceshop/db/migrations"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// One server per test binary, started by the first test that needs it.
var cluster struct {
	once   sync.Once
	server *pglocal.Server
	admin  *pgxpool.Pool
	dir    string
	err    error
	count  atomic.Int64
}

// Main runs a package's tests, then stops their Postgres and fails if a goroutine is left.
// Use it as the body of TestMain.
func Main(m *testing.M) {
	code := Run(m)
	if code == 0 {
		if err := leaks(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaks returns an error that names the goroutines which still run after five seconds. Those of a
// closed Redis client whose server is gone end on their own: they look once a second.
func leaks() (err error) {
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until); {
		err = goleak.Find( // tries for half a second
			// An embedded NATS server that stops while its streams are busy leaves these behind.
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
			// A connection that breaks while toxiproxy forwards its bytes leaves these behind.
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
			goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
		)
		if err == nil {
			return nil
		}
	}
	return err
}

// Run is Main for tests whose libraries leave goroutines behind. It returns the exit code.
func Run(m *testing.M) int {
	if draws := flag.Lookup("rapid.checks"); draws != nil && (raceDetector || os.Getenv("CI") == "") {
		_ = draws.Value.Set("20") // CI draws the full number, without the race detector
	}
	// Tests wait for servers and deadlines more than they compute. A -parallel of the command line
	// wins: m.Run reads it.
	_ = flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	code := m.Run()
	if cluster.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := stopServer(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "stop the tests' Postgres:", err)
			code = 1
		}
		cancel()
	}
	if cluster.dir != "" {
		_ = os.RemoveAll(cluster.dir)
	}
	return code
}

// Missing ends a test that needs a program that is not installed. It fails the test in CI and skips
// it elsewhere.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI must have it: %s", what)
	}
	t.Skip(what)
}

// Long skips a test that would make `go test ./...` take minutes more. It runs in CI, and elsewhere
// if -run asks for it.
func Long(t testing.TB) {
	t.Helper()
	if os.Getenv("CI") == "" && flag.Lookup("test.run").Value.String() == "" {
		t.Skip("it takes long; -run . runs all")
	}
}

// DatabaseURL returns the address of a migrated, empty database that only this test uses.
func DatabaseURL(t testing.TB) string {
	t.Helper()
	cluster.once.Do(startCluster)
	if errors.Is(cluster.err, pglocal.ErrNoPostgres) {
		Missing(t, cluster.err.Error())
	}
	if cluster.err != nil {
		t.Fatalf("start Postgres: %v", cluster.err)
	}
	name := fmt.Sprintf("test_%d", cluster.count.Add(1))
	if err := admin("CREATE DATABASE " + name + " TEMPLATE template_shop STRATEGY file_copy"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return urlOf(name)
}

// Backup copies a test's database, whose sessions end. The function restores the database from the
// copy.
func Backup(t testing.TB, databaseURL string) (restore func()) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	all := func(statements ...string) {
		t.Helper()
		for _, statement := range statements {
			if err := admin(statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	all("ALTER DATABASE "+name+" ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'",
		"CREATE DATABASE "+name+"_backup TEMPLATE "+name,
		"ALTER DATABASE "+name+" ALLOW_CONNECTIONS true")
	return func() {
		t.Helper()
		all("DROP DATABASE "+name+" WITH (FORCE)", "ALTER DATABASE "+name+"_backup RENAME TO "+name)
	}
}

// DB returns a pool on a migrated, empty database that only this test uses.
func DB(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Pool(t, DatabaseURL(t))
}

// Pool opens a pool that is closed when the test ends.
func Pool(t testing.TB, databaseURL string) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), databaseURL, 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// EndSessions closes the pools' sessions, also those that a pool still opens for a caller that has
// left, and returns when their database has none but the one that looks.
func EndSessions(t testing.TB, pools ...*pgxpool.Pool) {
	t.Helper()
	Eventually(t, 20*time.Second, "the other sessions have ended", func() bool {
		var others int
		if err := pools[0].QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity "+
			"WHERE datname = current_database() AND pid <> pg_backend_pid()").Scan(&others); err != nil {
			t.Fatal(err)
		}
		for _, pool := range pools {
			pool.Reset()
		}
		return others == 0
	})
}

func startCluster() {
	base := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		base = "/dev/shm" // in memory: nothing here has to survive
	}
	cluster.dir, cluster.err = os.MkdirTemp(base, "onceshop-test-")
	if cluster.err != nil {
		return
	}
	// Under root, the server runs as another user and must be able to enter the folder.
	if cluster.err = os.Chmod(cluster.dir, 0o755); cluster.err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cluster.err = startFromTemplate(ctx, filepath.Join(cluster.dir, "data"))
}

// startFromTemplate starts the server on a copy of prepared data, which have the migrated database
// template_shop. The test binaries of a checkout share the original. It is made anew if the schema
// or the code that creates data has changed, or if the Postgres here cannot read it.
func startFromTemplate(ctx context.Context, data string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	key, err := templateKey(root)
	if err != nil {
		return err
	}
	shared, unlock, err := sharedFolder("postgres", root)
	if err != nil {
		return err
	}
	defer unlock()
	original := filepath.Join(shared, key)
	if copyData(ctx, original, data) == nil && startServer(ctx) == nil {
		if enterTemplate(ctx) == nil {
			return nil
		}
		if err := stopServer(ctx); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	if err := startServer(ctx); err != nil {
		return err
	}
	if err := makeTemplate(ctx); err != nil {
		return err
	}
	if err := stopServer(ctx); err != nil {
		return err
	}
	if err := keepOriginal(ctx, data, original); err != nil {
		return err
	}
	if err := startServer(ctx); err != nil {
		return err
	}
	return enterTemplate(ctx)
}

// enterTemplate makes the server write its catalog cache of template_shop. The copies have it
// too; without it, the first session of each test would read the catalog.
func enterTemplate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, urlOf("template_shop"))
	if err != nil {
		return fmt.Errorf("connect to the tests' Postgres: %w", err)
	}
	return conn.Close(ctx)
}

// templateKey names the prepared data after all that shaped them.
func templateKey(root string) (string, error) {
	hash := fnv.New64a()
	pglocalCode := os.DirFS(filepath.Join(root, "internal", "pg", "pglocal"))
	for _, source := range []struct {
		files   fs.FS
		pattern string
	}{{migrations.FS, "*.sql"}, {pglocalCode, "cluster.go"}} {
		names, err := fs.Glob(source.files, source.pattern)
		if err != nil {
			return "", err
		}
		for _, name := range names {
			text, err := fs.ReadFile(source.files, name)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
		}
	}
	return fmt.Sprintf("data-%x", hash.Sum64()), nil
}

// keepOriginal replaces what is kept by a copy of the data of a stopped server.
func keepOriginal(ctx context.Context, data, original string) error {
	old, err := filepath.Glob(filepath.Join(filepath.Dir(original), "*data-*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	incomplete := filepath.Join(filepath.Dir(original), "new-"+filepath.Base(original))
	if err := copyData(ctx, data, incomplete); err != nil {
		return err
	}
	return os.Rename(incomplete, original)
}

// copyData copies the folder to a new one. Under root, the files keep the user who runs the server.
func copyData(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-Rp", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w\n%s", from, err, out)
	}
	return nil
}

func startServer(ctx context.Context) (err error) {
	cluster.server, err = pglocal.Start(ctx, pglocal.Config{
		Dir:      cluster.dir,
		Volatile: true,
		Settings: []string{"max_connections=300", "log_min_messages=fatal"},
	})
	if err != nil {
		return err
	}
	cluster.admin, err = pgxpool.New(ctx, cluster.server.URL())
	return err
}

func stopServer(ctx context.Context) error {
	cluster.admin.Close()
	return cluster.server.Stop(ctx)
}

// makeTemplate migrates one database; the tests' databases are copies of it.
func makeTemplate(ctx context.Context) error {
	if err := admin("CREATE DATABASE template_shop"); err != nil {
		return err
	}
	pool, err := pg.Open(ctx, urlOf("template_shop"), 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = pg.Migrate(ctx, pool)
	return err
}

func urlOf(database string) string {
	u, err := url.Parse(cluster.server.URL())
	if err != nil {
		panic(err)
	}
	u.Path = "/" + database
	return u.String()
}

func admin(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := cluster.admin.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
