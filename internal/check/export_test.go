package check

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/pg"
)

// ClockSkew is how much longer a window is than it was asked for.
const ClockSkew = clockSkew

// RunTx checks what the transaction sees, so that a test can break the data in it and roll back.
// The check believes that it runs later by the time given.
func RunTx(t testing.TB, tx pgx.Tx, sources Sources, later time.Duration) Report {
	t.Helper()
	args := legalChanges()
	since := sources.begin()
	args["since"], args["since_id"] = since, pg.FirstID(since.Add(-clockSkew))
	seen, missing, err := ask(t.Context(), sources, since, args)
	if err != nil {
		t.Fatal(err)
	}
	args["asked"] = args["asked"].(time.Time).Add(later)
	report, err := readTx(context.WithoutCancel(t.Context()), tx, seen, since, args, missing)
	if err != nil {
		t.Fatal(err)
	}
	return report
}
