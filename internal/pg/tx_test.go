package pg_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const insertThing = `INSERT INTO things (name) VALUES ('thing')`

func code(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

func TestInTxCommits(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), insertThing)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantThings(t, pool, 1)
}

// A pool of one connection shows that it is given back.
func TestInTxRollsBack(t *testing.T) {
	t.Parallel()
	_, url := setup(t)
	pool := open(t, url, 1)
	boom := errors.New("boom")
	err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), insertThing); err != nil {
			t.Error(err)
		}
		return boom
	})
	if err != boom { //nolint:errorlint // as it is, not wrapped
		t.Errorf("got %v, want fn's own error", err)
	}
	wantThings(t, pool, 0)
}

func TestInTxRollsBackOnPanic(t *testing.T) {
	t.Parallel()
	_, url := setup(t)
	pool := open(t, url, 1)
	var left pgx.Tx
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v, want fn's panic", p)
			}
		}()
		_ = pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			left = tx
			if _, err := tx.Exec(t.Context(), insertThing); err != nil {
				t.Error(err)
			}
			panic("boom")
		})
	}()
	if n := pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are not given back", n)
		_ = left.Rollback(t.Context()) // the pool would wait for it for ever
	}
	wantThings(t, pool, 0)
}

func TestInTxRetriesADeadlock(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	exec(t, pool, `INSERT INTO things (name) VALUES ('a'), ('b')`)
	orders := [][]string{{"a", "b"}, {"b", "a"}}
	var bothHoldOne sync.WaitGroup
	bothHoldOne.Add(2)
	var runs atomic.Int64
	errs := shoptest.Race(2, func(i int) error {
		first := true
		return pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			runs.Add(1)
			// By default Postgres lets the two wait for a second before it looks.
			if _, err := tx.Exec(t.Context(), `SET LOCAL deadlock_timeout = '10ms'`); err != nil {
				return err
			}
			for _, name := range orders[i] {
				if _, err := tx.Exec(t.Context(), `UPDATE things SET value = value + 1 WHERE name = $1`,
					name); err != nil {
					return err
				}
				if first {
					first = false
					bothHoldOne.Done()
					bothHoldOne.Wait()
				}
			}
			return nil
		})
	})
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if runs.Load() < 3 {
		t.Errorf("%d runs: no deadlock happened, so this tests nothing", runs.Load())
	}
	if sum := query[int](t, pool, `SELECT sum(value) FROM things`); sum != 4 {
		t.Errorf("the sum is %d, want 2 transactions with 2 increments each", sum)
	}
}

func TestInTxTriesAgainOnlyWhatCanSucceed(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	for raised, want := range map[string]int{"40001": 5, "40P01": 5, "23505": 1, "P0001": 1, "55P03": 1} {
		t.Run(raised, func(t *testing.T) {
			t.Parallel()
			runs := 0
			err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
				runs++
				if _, err := tx.Exec(t.Context(), insertThing); err != nil {
					return err
				}
				_, err := tx.Exec(t.Context(), `DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '`+raised+`'; END $$`)
				return err
			})
			if runs != want || code(err) != raised {
				t.Errorf("%d runs ended with %v; want %d", runs, err, want)
			}
			if again := want > 1; again && !pg.IsUnavailable(err) {
				t.Error("a caller who came too often in the way of others is not told to come again later")
			}
		})
	}
}

func TestInTxCanceledInTheMiddle(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insertThing); err != nil {
			return err
		}
		cancel()
		_, err := tx.Exec(ctx, `SELECT 1`)
		return err
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, pg.ErrCommitUnknown) {
		t.Errorf("got %v, want the context's error", err)
	}
	wantThings(t, pool, 0)
}

// Ending a COMMIT with its caller would leave its outcome unknown.
func TestInTxCommitsThoughItsCallerIsGone(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertThing)
		cancel()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantThings(t, pool, 1)
}

// commitTime notes how long each COMMIT is given.
type commitTime struct{ given []time.Duration }

func (c *commitTime) TraceQueryStart(ctx context.Context, _ *pgx.Conn, query pgx.TraceQueryStartData) context.Context {
	if deadline, ok := ctx.Deadline(); ok && query.SQL == "commit" {
		c.given = append(c.given, time.Until(deadline))
	}
	return ctx
}

func (*commitTime) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Work that takes long must leave its COMMIT as much time as any other.
func TestInTxGivesTheCommitItsOwnTime(t *testing.T) {
	t.Parallel()
	_, url := setup(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	var commits commitTime
	config.ConnConfig.Tracer = &commits
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for _, work := range []string{`SELECT 1`, `SELECT pg_sleep(3)`} {
		err := pg.InTx(timeout(t, soon), pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), work)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(commits.given) != 2 || commits.given[0]-commits.given[1] > 2*time.Second {
		t.Errorf("the commits are given %s, want the same time after quick and after slow work", commits.given)
	}
}

func TestInTxCommitRefused(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"by a deferred constraint":    `INSERT INTO parts (thing) VALUES ('no such thing')`,
		"after a swallowed error":     `SELECT 1/0`,
		"by a conflict at the COMMIT": `INSERT INTO conflicts VALUES (1)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, _ := setup(t)
			exec(t, pool, `CREATE TABLE parts (thing text REFERENCES things DEFERRABLE INITIALLY DEFERRED)`)
			exec(t, pool, `CREATE TABLE conflicts (id int);
				CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql
					AS $$ BEGIN RAISE 'conflict' USING ERRCODE = '40001'; END $$;
				CREATE CONSTRAINT TRIGGER conflict AFTER INSERT ON conflicts DEFERRABLE INITIALLY DEFERRED
					FOR EACH ROW EXECUTE FUNCTION conflict()`)
			runs := 0
			err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
				runs++
				_, err := tx.Exec(t.Context(), insertThing)
				if _, swallowed := tx.Exec(t.Context(), body); swallowed != nil && code(swallowed) != "22012" {
					t.Error(swallowed)
				}
				return err
			})
			if err == nil || errors.Is(err, pg.ErrCommitUnknown) {
				t.Errorf("got %v, want an error that leaves no doubt", err)
			}
			if conflict := code(err) == "40001"; conflict != pg.IsUnavailable(err) || conflict != (runs > 1) {
				t.Errorf("%v after %d runs; unavailable: %t", err, runs, pg.IsUnavailable(err))
			}
			wantThings(t, pool, 0)
		})
	}
}

func TestInTxCommitUnknown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		at     fault
		stored int
	}{
		"the command is lost":          {at: loseCommand, stored: 0},
		"the answer is lost":           {at: loseAnswer, stored: 1},
		"the connection breaks":        {at: reset, stored: 1},
		"a pooler has lost the server": {at: answerByFatal, stored: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct, url := setup(t)
			pool := shoptest.Pool(t, startProxy(t, url, test.at))
			runs := 0
			err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
				runs++
				_, err := tx.Exec(t.Context(), insertThing)
				return err
			})
			if !errors.Is(err, pg.ErrCommitUnknown) || !pg.IsUnavailable(err) {
				t.Errorf("got %v, want ErrCommitUnknown, which is unavailable", err)
			}
			if runs != 1 {
				t.Errorf("%d runs: what may be committed must not run again", runs)
			}
			shoptest.Eventually(t, soon, "the server has noticed the cut", func() bool {
				return query[int](t, direct, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
					AND xact_start IS NOT NULL AND pid <> pg_backend_pid()`) == 0
			})
			wantThings(t, direct, test.stored)
		})
	}
}

func TestInTxWithoutAServer(t *testing.T) {
	t.Parallel()
	pool := open(t, "postgres://shop@"+shoptest.FreeAddr(t)+"/shop?sslmode=disable", 1)
	err := pg.InTx(t.Context(), pool, func(pgx.Tx) error {
		t.Error("fn ran without a transaction")
		return nil
	})
	if !pg.IsUnavailable(err) || errors.Is(err, pg.ErrCommitUnknown) {
		t.Errorf("got %v, want an unavailable database and no doubt about the outcome", err)
	}
}
