package shoptest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// ExampleMain is Main for a package whose godoc examples use DB. A running example cannot skip
// itself, so without a Postgres ExampleMain starts none. In CI the examples fail.
func ExampleMain(m *testing.M) {
	cluster.once.Do(startCluster)
	if errors.Is(cluster.err, pglocal.ErrNoPostgres) && os.Getenv("CI") == "" {
		_ = flag.Set("test.skip", "^Example") // the flag exists
	}
	Main(m)
}

// Example runs the body of a godoc example, which has no testing.T. Servers and pools that the body
// opens are closed when it returns.
func Example(body func(t testing.TB)) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &example{ctx: ctx}
	defer func() {
		cancel()
		for i := len(e.cleanups) - 1; i >= 0; i-- {
			e.cleanups[i]()
		}
	}()
	body(e)
}

// example has the methods of testing.TB that the helpers of tests call.
type example struct {
	testing.TB
	ctx      context.Context
	cleanups []func()
}

func (e *example) Context() context.Context          { return e.ctx }
func (e *example) Helper()                           {}
func (e *example) Logf(string, ...any)               {}
func (e *example) Cleanup(f func())                  { e.cleanups = append(e.cleanups, f) }
func (e *example) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (e *example) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (e *example) Error(args ...any)                 { e.Fatal(args...) }

func (e *example) TempDir() string {
	dir, err := os.MkdirTemp("", "onceshop-example-")
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
