package pg_test

import (
	"errors"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// twoThings needs the answer to one of its three statements.
func twoThings(t *testing.T) func(*pg.Pipe) error {
	t.Helper()
	return func(tx *pg.Pipe) error {
		if _, err := tx.Exec(t.Context(), insertThing); err != nil {
			return err
		}
		var n int
		tx.Queue(`SELECT count(*) FROM things`).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
		if err := tx.Flush(t.Context()); err != nil || n != 1 {
			t.Errorf("%d things, %v, want the one of this transaction", n, err)
		}
		_, err := tx.Exec(t.Context(), `INSERT INTO things (name) VALUES ('another')`)
		return err
	}
}

func TestInPipeTakesTwoRoundTrips(t *testing.T) {
	t.Parallel()
	direct, databaseURL := setup(t)
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := shoptest.StartProxy(t, u.Host)
	u.Host = proxy.Addr()
	pool := open(t, u.String(), 1)
	if err := pg.InPipe(t.Context(), pool, twoThings(t)); err != nil { // its statements are prepared from here on
		t.Fatal(err)
	}
	if _, err := direct.Exec(t.Context(), `DELETE FROM things`); err != nil {
		t.Fatal(err)
	}
	var sends atomic.Int64
	proxy.OnSend(func([]byte) shoptest.Fate {
		sends.Add(1)
		return shoptest.Pass
	})
	if err := pg.InPipe(t.Context(), pool, twoThings(t)); err != nil {
		t.Fatal(err)
	}
	if n := sends.Load(); n != 2 {
		t.Errorf("%d sends, want 2", n)
	}
	wantThings(t, direct, 2)
}

// A pool of one connection shows that it is given back.
func TestInPipeRollsBack(t *testing.T) {
	t.Parallel()
	_, databaseURL := setup(t)
	pool := open(t, databaseURL, 1)
	boom := errors.New("boom")
	for name, end := range map[string]func() error{"an error": func() error { return boom },
		"a panic": func() error { panic(boom) }} {
		func() {
			defer func() {
				if p := recover(); p != nil && p != boom { //nolint:errorlint // as it is, not wrapped
					t.Errorf("%s: panic %v", name, p)
				}
			}()
			err := pg.InPipe(t.Context(), pool, func(tx *pg.Pipe) error {
				if err := twoThings(t)(tx); err != nil {
					t.Error(err)
				}
				return end()
			})
			if err != boom { //nolint:errorlint // as it is, not wrapped
				t.Errorf("%s: got %v, want fn's own error", name, err)
			}
		}()
		wantThings(t, pool, 0)
	}
}

// What waits in the pipe fails later: with the next statement, or at the end.
func TestInPipeReportsWhatFailsOnTheWay(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	const wrong = `SELECT 1 / 0`
	for name, after := range map[string]func(*pg.Pipe) error{
		"at the end": func(*pg.Pipe) error { return nil },
		"in a flush": func(tx *pg.Pipe) error { return tx.Flush(t.Context()) },
		"in a query": func(tx *pg.Pipe) error {
			rows, err := tx.Query(t.Context(), `SELECT count(*) FROM things`)
			if err == nil {
				rows.Close()
			}
			return err
		},
		"in a row": func(tx *pg.Pipe) error {
			return tx.QueryRow(t.Context(), `SELECT count(*) FROM things`).Scan(new(int))
		},
	} {
		err := pg.InPipe(t.Context(), pool, func(tx *pg.Pipe) error {
			for _, sql := range []string{insertThing, wrong, insertThing} {
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					return err
				}
			}
			return after(tx)
		})
		if code(err) != "22012" || errors.Is(err, pg.ErrCommitUnknown) {
			t.Errorf("%s: got %v, want the division by zero", name, err)
		}
	}
	wantThings(t, pool, 0)
}

func TestInPipeRowThatIsMissing(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	err := pg.InPipe(t.Context(), pool, func(tx *pg.Pipe) error {
		return tx.QueryRow(t.Context(), `SELECT name FROM things`).Scan(new(string))
	})
	if !errors.Is(err, pgx.ErrNoRows) {
		t.Errorf("got %v, want no rows", err)
	}
}

func TestInPipeTriesAgainAfterADeadlock(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	tries := 0
	err := pg.InPipe(t.Context(), pool, func(tx *pg.Pipe) error {
		if tries++; tries < 3 {
			_, err := tx.Exec(t.Context(), `DO $$ BEGIN RAISE EXCEPTION 'a deadlock' USING ERRCODE = '40P01'; END $$`)
			return err
		}
		return twoThings(t)(tx)
	})
	if err != nil || tries != 3 {
		t.Errorf("%d tries, %v, want 3", tries, err)
	}
	wantThings(t, pool, 2)
}

func TestReadBatchTriesAgainAfterADeadlock(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	tries := 0
	n := -1
	err := pg.ReadBatch(t.Context(), pool, func(batch *pg.Pipe) {
		if tries++; tries < 3 {
			batch.Queue(`DO $$ BEGIN RAISE EXCEPTION 'a deadlock' USING ERRCODE = '40P01'; END $$`)
		}
		batch.Queue(`SELECT count(*) FROM things`).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
	})
	if err != nil || tries != 3 || n != 0 {
		t.Errorf("%d tries, %d things, %v, want 3 and none", tries, n, err)
	}
}

func TestInPipeLosesItsCommit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fate   shoptest.Fate
		things int
	}{
		"the command": {shoptest.LoseRequest, 0},
		"the answer":  {shoptest.LoseAnswer, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct, databaseURL := setup(t)
			armed, through := shoptest.CutCommits(t, databaseURL, test.fate)
			pool := open(t, through, 1)
			armed.Store(true)
			if err := pg.InPipe(t.Context(), pool, twoThings(t)); !errors.Is(err, pg.ErrCommitUnknown) ||
				!pg.IsUnavailable(err) {
				t.Errorf("got %v, want a commit whose outcome is unknown", err)
			}
			if armed.Load() {
				t.Error("no commit was cut")
			}
			wantThings(t, direct, test.things)
		})
	}
}
